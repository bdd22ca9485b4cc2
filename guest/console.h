/* The machine's consoles (serial ports, screen), and what is said on all of them. */
#ifndef APPPOT_CONSOLE_H
#define APPPOT_CONSOLE_H

#include <stddef.h>

enum { CONSOLES_MAX = 4 };

extern int consoles[CONSOLES_MAX];
extern size_t console_count;

/* Opens those that the kernel writes to; /dev and /sys have to be there. */
void consoles_open(void);
void consoles_write(const void *bytes, size_t size);
void consoles_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif

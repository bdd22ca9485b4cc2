/* Why the machine cannot be made as asked: becomes the FAILED frame. */
#ifndef APPPOT_FAILURE_H
#define APPPOT_FAILURE_H

#include <stdbool.h>

struct failure {
    const char *stage;
    int error;
    char text[512];
};

/* Remembers the failure and returns false, so that it can end a function. `error` is an errno
 * or 0; the text says what was tried. */
bool fail(const char *stage, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
const struct failure *last_failure(void);

#endif

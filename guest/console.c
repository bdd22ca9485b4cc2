/* The machine's consoles (serial ports, screen), and what is said on all of them. */
#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "files.h"

int consoles[CONSOLES_MAX];
size_t console_count;

/* What is typed is passed on as it is: the terminal that it goes to does the rest. */
static void make_raw(int fd)
{
    struct termios mode;
    if (tcgetattr(fd, &mode) != 0)
        return;
    cfmakeraw(&mode);
    mode.c_oflag |= OPOST | ONLCR;
    mode.c_cflag |= CLOCAL | CREAD;
    tcsetattr(fd, TCSANOW, &mode);
}

void consoles_open(void)
{
    char names[256];
    read_small_file("/sys/class/tty/console/active", names, sizeof names);
    for (char *name = strtok(names, " \n"); name != NULL && console_count < CONSOLES_MAX;
         name = strtok(NULL, " \n")) {
        char path[280];
        snprintf(path, sizeof path, "/dev/%s", name);
        int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
            continue;
        make_raw(fd);
        consoles[console_count++] = fd;
    }
}

void consoles_write(const void *bytes, size_t size)
{
    for (size_t i = 0; i < console_count; i++) {
        const char *at = bytes;
        for (size_t left = size; left > 0;) {
            ssize_t done = write(consoles[i], at, left);
            if (done < 0 && errno == EINTR)
                continue;
            if (done <= 0)
                break;
            at += done;
            left -= (size_t)done;
        }
    }
}

void consoles_say(const char *format, ...)
{
    char text[1024];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    if (length > 0)
        consoles_write(text, (size_t)length < sizeof text ? (size_t)length : sizeof text - 1);
}

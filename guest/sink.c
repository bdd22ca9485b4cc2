/* Output of processes that a command left behind: read and thrown away, so that they live on. */
#include "sink.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

/* Plus one, so that zeroed memory means none. */
static int sinks[SINKS_MAX];
static unsigned next;

void sink_adopt(int fd)
{
    if (fd < 0)
        return;
    /* Nearly always nobody holds the other end any more. */
    struct pollfd ask = {.fd = fd, .events = POLLIN};
    if (poll(&ask, 1, 0) == 1 && (ask.revents & POLLIN) == 0) {
        close(fd);
        return;
    }
    unsigned place = next;
    for (unsigned i = 0; i < SINKS_MAX; i++)
        if (sinks[(next + i) % SINKS_MAX] == 0) {
            place = (next + i) % SINKS_MAX;
            break;
        }
    if (sinks[place] != 0)
        close(sinks[place] - 1);
    sinks[place] = fd + 1;
    next = (place + 1) % SINKS_MAX;
}

int sink_descriptor(int index)
{
    return sinks[index] - 1;
}

void sink_read(int index)
{
    static char waste[65536];
    ssize_t got = read(sinks[index] - 1, waste, sizeof waste);
    if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    close(sinks[index] - 1);
    sinks[index] = 0;
}

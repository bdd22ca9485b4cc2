/* Output of processes that a command left behind: read and thrown away, so that they live on. */
#ifndef APPPOT_SINK_H
#define APPPOT_SINK_H

enum { SINKS_MAX = 128 };

/* Takes over the read end of a pipe (or -1). The oldest is closed when there are too many. */
void sink_adopt(int fd);
int sink_descriptor(int index);
void sink_read(int index);

#endif

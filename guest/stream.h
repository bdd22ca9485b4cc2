/* The relay between the channel and a command's pipes or terminal, within the windows. */
#ifndef APPPOT_STREAM_H
#define APPPOT_STREAM_H

#include <stdbool.h>

#include "command.h"

/* From the host. They return NULL, or how the frame breaks the protocol. */
const char *stream_receive(struct command *command, const struct frame *frame);
const char *stream_credit(struct command *command, enum stream stream, uint32_t bytes);
void stream_close(struct command *command, enum stream stream);
void stream_resize(struct command *command, struct window_size size);

/* What poll(2) is to wait for on each descriptor; 0: do not look at it. */
short stream_input_events(const struct command *command);
bool stream_wants_output(const struct command *command, int index);

void stream_write_input(struct command *command, short ready);
void stream_read_output(struct command *command, int index);

/* The command's first process has ended: what is in the pipes now is all that is still sent. */
void stream_end(struct command *command);
bool stream_is_drained(const struct command *command);
void stream_send_ends(struct command *command);

#endif

/* The host's side of the agent protocol, as far as a machine needs it that has no host. */
#ifndef APPPOT_HOST_H
#define APPPOT_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"

/* Frames to the agent. False: it is gone. */
bool host_send(int agent, enum frame_type type, uint16_t id, const void *payload, uint32_t length);
/* Of any length: in several frames. */
bool host_send_specification(int agent, enum frame_type type, uint16_t id, const uint8_t *bytes,
                             size_t size);
bool host_send_credit(int agent, uint16_t id, enum stream stream, uint32_t count);

/* Reads the bytes before the first frame, and one frame; `payload` has room for the longest. */
bool host_receive_magic(int agent);
bool host_receive(int agent, struct frame *frame, uint8_t *payload);

/* Of the records of a result. */
struct outcome {
    bool has_code, has_signal;
    uint64_t code, signal, error, user_time, system_time, peak_memory;
    char text[512], stage[32];
};

/* What records of FAILED or EXITED say; other records are left out. */
void host_read_outcome(const uint8_t *bytes, size_t size, struct outcome *outcome);
/* The exit status that a shell would see. */
unsigned host_status(const struct outcome *outcome);

#endif

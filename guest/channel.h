/* The byte stream to the host: buffers, and the frames that go out. */
#ifndef APPPOT_CHANNEL_H
#define APPPOT_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"
#include "record.h"

/* Opens the device and makes it raw; -1 with errno. */
int channel_open(const char *device);
void channel_use(int fd);
int channel_fd(void);

/* Reads what is there. False: the channel is broken. */
bool channel_fill(void);
/* The bytes read and not used yet. */
const uint8_t *channel_input(size_t *size);
void channel_consume(size_t size);

/* Whether a whole data frame, or what one frame of the host can cause, fits the output buffer. */
bool channel_has_room_for_data(void);
bool channel_has_room_for_answers(void);
/* The place for the payload of the next data frame; then what it became. */
uint8_t *channel_place(void);
void channel_commit(enum frame_type type, uint16_t id, uint32_t length);

void channel_send(enum frame_type type, uint16_t id, const void *payload, uint32_t length);
void channel_send_magic(void);
void channel_notice(uint16_t id, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A frame of records: begin (which puts the time, tag 1), put, send. */
struct record_writer *channel_begin_records(void);
void channel_send_records(enum frame_type type, uint16_t id);

bool channel_wants_to_write(void);
/* Writes as much as the channel takes now. False: the channel is broken. */
bool channel_flush(void);
/* Waits until the channel has taken and passed on everything, at most so long. */
void channel_drain(int milliseconds);

#endif

/* Frames of the agent protocol: bytes in, struct out, and back. Pure: no input or output. */
#ifndef APPPOT_FRAME_H
#define APPPOT_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_HEADER 8u
#define FRAME_PAYLOAD_MAX 65536u
#define STREAM_WINDOW 131072u

enum frame_type {
    /* guest to host */
    FRAME_HELLO = 1,
    FRAME_READY = 2,
    FRAME_FAILED = 3,
    FRAME_STARTED = 4,
    FRAME_STDOUT = 5,
    FRAME_STDERR = 6,
    FRAME_EXITED = 7,
    FRAME_CREDIT_INPUT = 8,
    FRAME_CLOSE_INPUT = 9,
    FRAME_NOTICE = 10,
    FRAME_BYE = 11,
    FRAME_FROZEN = 12,
    FRAME_THAWED = 13,
    /* host to guest */
    FRAME_MACHINE = 64,
    FRAME_COMMAND = 65,
    FRAME_STDIN = 66,
    FRAME_SIGNAL = 67,
    FRAME_RESIZE = 68,
    FRAME_CREDIT = 69,
    FRAME_CLOSE = 70,
    FRAME_POWEROFF = 71,
    FRAME_FREEZE = 72,
    FRAME_THAW = 73,
};

enum stream { STREAM_STDIN = 0, STREAM_STDOUT = 1, STREAM_STDERR = 2 };

struct frame {
    uint8_t type;
    bool end;
    uint16_t id;
    uint32_t length;
    const uint8_t *payload;
};

struct window_size {
    uint16_t rows, columns, x_pixels, y_pixels;
};

uint16_t get_u16(const uint8_t *bytes);
uint32_t get_u32(const uint8_t *bytes);
uint64_t get_u64(const uint8_t *bytes);
void put_u16(uint8_t *bytes, uint16_t value);
void put_u32(uint8_t *bytes, uint32_t value);
void put_u64(uint8_t *bytes, uint64_t value);

/* Reads the first frame that a host may send from `bytes`. Returns how many bytes it takes, 0 if
 * it is not complete yet, -1 if it breaks the protocol (then `*why` says how). A wrong header is
 * found as soon as its eight bytes are there. The payload has been checked for its type, except
 * for the records of specifications. */
long frame_decode(const uint8_t *bytes, size_t size, struct frame *frame, const char **why);

/* Writes the header of a frame that the guest sends. */
void frame_encode_header(uint8_t *bytes, enum frame_type type, uint16_t id, uint32_t length);

/* Payloads of fixed form; to be used on frames that frame_decode() has accepted. */
struct window_size frame_window_size(const struct frame *frame);
enum stream frame_stream(const struct frame *frame);
uint32_t frame_credit(const struct frame *frame);
int frame_signal(const struct frame *frame);

#endif

/* Frames of the agent protocol. */
#include "frame.h"

#define SIGNAL_MAX 64

uint16_t get_u16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | (uint16_t)(bytes[1] << 8));
}

uint32_t get_u32(const uint8_t *bytes)
{
    return (uint32_t)get_u16(bytes) | (uint32_t)get_u16(bytes + 2) << 16;
}

uint64_t get_u64(const uint8_t *bytes)
{
    return (uint64_t)get_u32(bytes) | (uint64_t)get_u32(bytes + 4) << 32;
}

void put_u16(uint8_t *bytes, uint16_t value)
{
    bytes[0] = (uint8_t)(value & 0xff);
    bytes[1] = (uint8_t)(value >> 8);
}

void put_u32(uint8_t *bytes, uint32_t value)
{
    put_u16(bytes, (uint16_t)(value & 0xffff));
    put_u16(bytes + 2, (uint16_t)(value >> 16));
}

void put_u64(uint8_t *bytes, uint64_t value)
{
    put_u32(bytes, (uint32_t)(value & 0xffffffff));
    put_u32(bytes + 4, (uint32_t)(value >> 32));
}

static const char *check_header(const struct frame *frame, unsigned flags)
{
    if (frame->type < FRAME_MACHINE || frame->type > FRAME_THAW)
        return "unknown frame type";
    bool specification = frame->type == FRAME_MACHINE || frame->type == FRAME_COMMAND;
    if ((flags & ~1u) != 0 || (frame->end && !specification))
        return "reserved flag in a frame";
    if (frame->length > FRAME_PAYLOAD_MAX)
        return "frame too long";
    bool of_machine = frame->type == FRAME_MACHINE || frame->type >= FRAME_POWEROFF;
    if (of_machine != (frame->id == 0))
        return "wrong id for this frame type";
    return NULL;
}

static const char *check_length(const struct frame *frame)
{
    static const uint8_t fixed[] = {
        [FRAME_SIGNAL - FRAME_SIGNAL] = 1,
        [FRAME_RESIZE - FRAME_SIGNAL] = 8,
        [FRAME_CREDIT - FRAME_SIGNAL] = 5,
        [FRAME_CLOSE - FRAME_SIGNAL] = 1,
        [FRAME_POWEROFF - FRAME_SIGNAL] = 0,
        [FRAME_FREEZE - FRAME_SIGNAL] = 8,
        [FRAME_THAW - FRAME_SIGNAL] = 8 + 64,
    };
    if (frame->type >= FRAME_SIGNAL && frame->length != fixed[frame->type - FRAME_SIGNAL])
        return "wrong payload length for this frame type";
    return NULL;
}

static const char *check_payload(const struct frame *frame)
{
    if (frame->type == FRAME_SIGNAL && (frame->payload[0] == 0 || frame->payload[0] > SIGNAL_MAX))
        return "no such signal";
    if (frame->type == FRAME_CREDIT || frame->type == FRAME_CLOSE) {
        if (frame->payload[0] != STREAM_STDOUT && frame->payload[0] != STREAM_STDERR)
            return "no such stream";
    }
    return NULL;
}

long frame_decode(const uint8_t *bytes, size_t size, struct frame *frame, const char **why)
{
    if (size < FRAME_HEADER)
        return 0;
    frame->type = bytes[0];
    frame->end = (bytes[1] & 1u) != 0;
    frame->id = get_u16(bytes + 2);
    frame->length = get_u32(bytes + 4);
    frame->payload = bytes + FRAME_HEADER;
    *why = check_header(frame, bytes[1]);
    if (*why == NULL)
        *why = check_length(frame);
    if (*why != NULL)
        return -1;
    if (size - FRAME_HEADER < frame->length)
        return 0;
    *why = check_payload(frame);
    return *why != NULL ? -1 : (long)(FRAME_HEADER + frame->length);
}

void frame_encode_header(uint8_t *bytes, enum frame_type type, uint16_t id, uint32_t length)
{
    bytes[0] = (uint8_t)type;
    bytes[1] = 0;
    put_u16(bytes + 2, id);
    put_u32(bytes + 4, length);
}

struct window_size frame_window_size(const struct frame *frame)
{
    return (struct window_size){
        .rows = get_u16(frame->payload),
        .columns = get_u16(frame->payload + 2),
        .x_pixels = get_u16(frame->payload + 4),
        .y_pixels = get_u16(frame->payload + 6),
    };
}

enum stream frame_stream(const struct frame *frame)
{
    return frame->payload[0] == STREAM_STDERR ? STREAM_STDERR : STREAM_STDOUT;
}

uint32_t frame_credit(const struct frame *frame)
{
    return get_u32(frame->payload + 1);
}

int frame_signal(const struct frame *frame)
{
    return frame->payload[0];
}

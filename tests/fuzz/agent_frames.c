/* Fuzzes the frame parser: it reads only what it was given, and cuts it without gaps. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct frame *frame, const uint8_t *end)
{
    assert(frame->payload + frame->length <= end);
    assert(frame->length <= FRAME_PAYLOAD_MAX);
    assert((frame->id == 0) == (frame->type == FRAME_MACHINE || frame->type >= FRAME_POWEROFF));
    switch (frame->type) {
    case FRAME_SIGNAL: assert(frame_signal(frame) >= 1 && frame_signal(frame) <= 64); break;
    case FRAME_RESIZE: (void)frame_window_size(frame); break;
    case FRAME_CREDIT: (void)frame_credit(frame); /* fall through */
    case FRAME_CLOSE:
        assert(frame_stream(frame) == STREAM_STDOUT || frame_stream(frame) == STREAM_STDERR);
        break;
    default: break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t at = 0;
    for (;;) {
        /* A copy of its own, so that the sanitizer sees a read past its end. */
        size_t left = size - at;
        uint8_t *bytes = malloc(left + 1);
        if (bytes == NULL)
            return 0;
        uint8_t *exact = bytes + 1;
        memcpy(exact, data + at, left);
        struct frame frame;
        const char *why = NULL;
        long used = frame_decode(exact, left, &frame, &why);
        assert((used < 0) == (why != NULL));
        assert(used <= (long)left);
        if (used > 0) {
            assert(used == (long)(FRAME_HEADER + frame.length));
            use(&frame, exact + left);
            uint8_t header[FRAME_HEADER];
            frame_encode_header(header, frame.type, frame.id, frame.length);
            assert(header[0] == exact[0] && memcmp(header + 2, exact + 2, 6) == 0);
        }
        free(bytes);
        if (used <= 0)
            return 0;
        at += (size_t)used;
    }
}

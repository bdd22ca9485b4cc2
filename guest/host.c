/* The host's side of the agent protocol, as far as a machine needs it that has no host. */
#include "host.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "record.h"

static bool write_all(int fd, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    while (size > 0) {
        ssize_t done = write(fd, at, size);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        at += done;
        size -= (size_t)done;
    }
    return true;
}

static bool read_all(int fd, void *bytes, size_t size)
{
    uint8_t *at = bytes;
    while (size > 0) {
        ssize_t got = read(fd, at, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        at += got;
        size -= (size_t)got;
    }
    return true;
}

static bool send_piece(int agent, enum frame_type type, uint16_t id, const void *payload,
                       uint32_t length, bool end)
{
    uint8_t header[FRAME_HEADER];
    frame_encode_header(header, type, id, length);
    header[1] = end ? 1 : 0;
    return write_all(agent, header, sizeof header) && write_all(agent, payload, length);
}

bool host_send(int agent, enum frame_type type, uint16_t id, const void *payload, uint32_t length)
{
    return send_piece(agent, type, id, payload, length, false);
}

bool host_send_specification(int agent, enum frame_type type, uint16_t id, const uint8_t *bytes,
                             size_t size)
{
    bool good = true;
    do {
        size_t piece = size < FRAME_PAYLOAD_MAX ? size : FRAME_PAYLOAD_MAX;
        good = send_piece(agent, type, id, bytes, (uint32_t)piece, piece == size);
        bytes += piece;
        size -= piece;
    } while (good && size > 0);
    return good;
}

bool host_send_credit(int agent, uint16_t id, enum stream stream, uint32_t count)
{
    uint8_t payload[5] = {(uint8_t)stream};
    put_u32(payload + 1, count);
    return host_send(agent, FRAME_CREDIT, id, payload, sizeof payload);
}

bool host_receive_magic(int agent)
{
    static const uint8_t magic[8] = {'A', 'P', 'P', 'P', 'O', 'T', 0, 1};
    uint8_t got[sizeof magic];
    return read_all(agent, got, sizeof got) && memcmp(got, magic, sizeof magic) == 0;
}

bool host_receive(int agent, struct frame *frame, uint8_t *payload)
{
    uint8_t header[FRAME_HEADER];
    if (!read_all(agent, header, sizeof header))
        return false;
    *frame = (struct frame){.type = header[0],
                            .end = (header[1] & 1u) != 0,
                            .id = get_u16(header + 2),
                            .length = get_u32(header + 4),
                            .payload = payload};
    return frame->length <= FRAME_PAYLOAD_MAX && read_all(agent, payload, frame->length);
}

static void copy_text(char *to, size_t size, const struct record *record)
{
    size_t length = record->length < size - 1 ? record->length : size - 1;
    memcpy(to, record->data, length);
    to[length] = 0;
}

static void read_number(struct outcome *outcome, uint16_t tag, uint64_t value)
{
    switch (tag) {
    case 3: outcome->error = value; break;
    case 6: outcome->code = value, outcome->has_code = true; break;
    case 7: outcome->signal = value, outcome->has_signal = true; break;
    case 9: outcome->user_time = value; break;
    case 10: outcome->system_time = value; break;
    case 11: outcome->peak_memory = value; break;
    default: break;
    }
}

void host_read_outcome(const uint8_t *bytes, size_t size, struct outcome *outcome)
{
    *outcome = (struct outcome){0};
    struct record_reader reader = {.bytes = bytes, .size = size};
    struct record record;
    while (record_next(&reader, &record) > 0) {
        if (record.tag == 2)
            copy_text(outcome->stage, sizeof outcome->stage, &record);
        else if (record.tag == 4)
            copy_text(outcome->text, sizeof outcome->text, &record);
        else if (record.length == 8)
            read_number(outcome, record.tag, get_u64(record.data));
    }
}

unsigned host_status(const struct outcome *outcome)
{
    enum { FAILED = 125, CANNOT = 126, NOT_FOUND = 127, SIGNALS = 128 };
    if (outcome->has_signal)
        return SIGNALS + (unsigned)outcome->signal;
    if (outcome->has_code)
        return (unsigned)outcome->code & 0xff;
    if (strcmp(outcome->stage, "command") != 0 || outcome->error == 0 ||
        strncmp(outcome->text, "working directory", 17) == 0)
        return FAILED;
    return outcome->error == ENOENT || outcome->error == ENOTDIR ? NOT_FOUND : CANNOT;
}

/* The byte stream to the host: buffers, and the frames that go out. */
#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum {
    INPUT_SIZE = 256 * 1024,
    OUTPUT_SIZE = 512 * 1024,
    /* Frames that are not data always fit: data leaves this much free, and the host's frames are
     * not looked at while less than half of it is free. */
    RESERVE = 64 * 1024,
    RECORDS_SIZE = 2048,
    DEVICE_WAIT_MILLISECONDS = 5000,
};

static int descriptor = -1;

static struct {
    bool broken;
    size_t in_start, in_end;
    size_t out_start, out_end;
    struct record_writer records;
    uint8_t record_bytes[RECORDS_SIZE];
    uint8_t in[INPUT_SIZE];
    uint8_t out[OUTPUT_SIZE];
} channel;

/* A virtual PC's port appears a moment after the kernel's start, and is connected a moment later:
 * until then it looks as if the host had hung up. */
static int open_and_connect(const char *device, int milliseconds)
{
    int fd = -1;
    for (; milliseconds > 0; milliseconds--) {
        if (fd < 0)
            fd = open(device, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 && errno != ENOENT && errno != ENXIO && errno != ENODEV)
            return -1;
        struct pollfd state = {.fd = fd, .events = POLLOUT};
        if (fd >= 0 && poll(&state, 1, 0) >= 0 && (state.revents & POLLHUP) == 0)
            return fd;
        poll(NULL, 0, 1);
    }
    return fd;
}

int channel_open(const char *device)
{
    int fd = open_and_connect(device, DEVICE_WAIT_MILLISECONDS);
    if (fd < 0)
        return -1;
    struct termios mode;
    if (tcgetattr(fd, &mode) == 0) {
        cfmakeraw(&mode);
        cfsetspeed(&mode, B115200); /* a serial port's fastest; others have none */
        mode.c_cflag |= CLOCAL | CREAD;
        mode.c_cflag &= ~(tcflag_t)HUPCL;
        mode.c_cc[VMIN] = 1;
        mode.c_cc[VTIME] = 0;
        tcsetattr(fd, TCSANOW, &mode);
        ioctl(fd, TIOCEXCL);
    }
    return fd;
}

void channel_use(int fd)
{
    descriptor = fd;
}

int channel_fd(void)
{
    return descriptor;
}

bool channel_fill(void)
{
    if (channel.in_start == channel.in_end)
        channel.in_start = channel.in_end = 0;
    if (channel.in_start > 0 && INPUT_SIZE - channel.in_end < FRAME_HEADER + FRAME_PAYLOAD_MAX) {
        channel.in_end -= channel.in_start;
        memmove(channel.in, channel.in + channel.in_start, channel.in_end);
        channel.in_start = 0;
    }
    size_t room = INPUT_SIZE - channel.in_end;
    ssize_t got;
    if (room == 0)
        return true;
    do
        got = read(descriptor, channel.in + channel.in_end, room);
    while (got < 0 && errno == EINTR);
    if (got > 0)
        channel.in_end += (size_t)got;
    channel.broken |= got == 0 || (got < 0 && errno != EAGAIN);
    return !channel.broken;
}

const uint8_t *channel_input(size_t *size)
{
    *size = channel.in_end - channel.in_start;
    return channel.in + channel.in_start;
}

void channel_consume(size_t size)
{
    channel.in_start += size;
}

static size_t output_room(void)
{
    return OUTPUT_SIZE - (channel.out_end - channel.out_start);
}

bool channel_has_room_for_data(void)
{
    return output_room() >= FRAME_HEADER + FRAME_PAYLOAD_MAX + RESERVE;
}

bool channel_has_room_for_answers(void)
{
    return output_room() >= RESERVE / 2;
}

/* The end of the output buffer, with room for `size` more bytes there; NULL if there is none. */
static uint8_t *output_place(size_t size)
{
    if (channel.out_start == channel.out_end)
        channel.out_start = channel.out_end = 0;
    if (OUTPUT_SIZE - channel.out_end < size) {
        channel.out_end -= channel.out_start;
        memmove(channel.out, channel.out + channel.out_start, channel.out_end);
        channel.out_start = 0;
    }
    return OUTPUT_SIZE - channel.out_end < size ? NULL : channel.out + channel.out_end;
}

uint8_t *channel_place(void)
{
    uint8_t *place = output_place(FRAME_HEADER + FRAME_PAYLOAD_MAX);
    return place == NULL ? NULL : place + FRAME_HEADER;
}

void channel_commit(enum frame_type type, uint16_t id, uint32_t length)
{
    frame_encode_header(channel.out + channel.out_end, type, id, length);
    channel.out_end += FRAME_HEADER + length;
}

void channel_send(enum frame_type type, uint16_t id, const void *payload, uint32_t length)
{
    uint8_t *place = output_place(FRAME_HEADER + length);
    if (place == NULL) {
        channel.broken = true;
        return;
    }
    if (length > 0)
        memcpy(place + FRAME_HEADER, payload, length);
    channel_commit(type, id, length);
}

void channel_send_magic(void)
{
    static const char magic[8] = {'A', 'P', 'P', 'P', 'O', 'T', 0, 1};
    uint8_t *place = output_place(sizeof magic);
    if (place == NULL)
        return;
    memcpy(place, magic, sizeof magic);
    channel.out_end += sizeof magic;
}

void channel_notice(uint16_t id, const char *format, ...)
{
    char text[512];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    if (length < 0)
        return;
    if ((size_t)length >= sizeof text)
        length = (int)sizeof text - 1;
    channel_send(FRAME_NOTICE, id, text, (uint32_t)length);
}

struct record_writer *channel_begin_records(void)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_BOOTTIME, &now);
    channel.records = (struct record_writer){
        .bytes = channel.record_bytes, .capacity = RECORDS_SIZE, .used = 0};
    record_put_number(&channel.records, 1,
                      (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
    return &channel.records;
}

void channel_send_records(enum frame_type type, uint16_t id)
{
    channel_send(type, id, channel.records.bytes, (uint32_t)channel.records.used);
}

bool channel_wants_to_write(void)
{
    return channel.out_end > channel.out_start;
}

bool channel_flush(void)
{
    while (!channel.broken && channel.out_end > channel.out_start) {
        ssize_t done = write(descriptor, channel.out + channel.out_start,
                             channel.out_end - channel.out_start);
        if (done > 0) {
            channel.out_start += (size_t)done;
            continue;
        }
        if (done == 0 || errno == EAGAIN)
            return true;
        if (errno != EINTR)
            channel.broken = true;
    }
    return !channel.broken;
}

static long milliseconds_now(void)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void channel_drain(int milliseconds)
{
    long end = milliseconds_now() + milliseconds;
    while (channel_flush() && channel.out_end > channel.out_start) {
        long left = end - milliseconds_now();
        struct pollfd wait = {.fd = descriptor, .events = POLLOUT};
        if (left <= 0 || poll(&wait, 1, (int)left) == 0 || (wait.revents & POLLHUP) != 0)
            return;
    }
    int queued = 0, known = 0;
    while (!channel.broken && (known = ioctl(descriptor, TIOCOUTQ, &queued)) == 0 && queued > 0 &&
           milliseconds_now() < end)
        poll(NULL, 0, 1);
    /* A device that does not tell what is still under way: the host hangs up when it has all. */
    long left = end - milliseconds_now();
    if (!channel.broken && known != 0 && left > 0)
        poll(&(struct pollfd){.fd = descriptor}, 1, (int)left);
}

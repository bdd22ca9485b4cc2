/* The relay between the channel and a command's pipes or terminal, within the windows. */
#include "stream.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "channel.h"

enum {
    /* Passed-on input is credited in pieces of this size: few frames, a window always 3/4 open. */
    CREDIT_STEP = STREAM_WINDOW / 4,
    /* More than a terminal can hold; what others write to it afterwards must not hold us up. */
    TERMINAL_REST = 2 * STREAM_WINDOW,
};

static void close_input(struct input *input)
{
    close(input->fd);
    input->fd = -1;
    input->used = 0;
}

/* The command does not read any more. */
static void abandon_input(struct command *command)
{
    static const uint8_t stream = STREAM_STDIN;
    close_input(&command->input);
    if (!command->input.end)
        channel_send(FRAME_CLOSE_INPUT, command->id, &stream, sizeof stream);
}

static void give_credit(struct command *command, size_t bytes)
{
    struct input *input = &command->input;
    input->uncredited += bytes;
    if (input->uncredited < CREDIT_STEP || input->end)
        return;
    uint8_t payload[5] = {STREAM_STDIN};
    put_u32(payload + 1, (uint32_t)input->uncredited);
    channel_send(FRAME_CREDIT_INPUT, command->id, payload, sizeof payload);
    input->window += input->uncredited;
    input->uncredited = 0;
}

/* Writes what the command takes now; how much that was, or -1 if it takes nothing any more. */
static ssize_t write_some(struct command *command, const uint8_t *bytes, size_t size)
{
    ssize_t done = write(command->input.fd, bytes, size);
    if (done > 0) {
        command->input.last = bytes[done - 1];
        give_credit(command, (size_t)done);
        return done;
    }
    if (done == 0 || errno == EAGAIN || errno == EINTR)
        return 0;
    abandon_input(command);
    return -1;
}

/* End-of-file: a pipe is closed; a terminal gets its end-of-file character, twice if a line is
 * open, because the first one only hands over that line. */
static void end_input(struct command *command)
{
    struct input *input = &command->input;
    if (!command->terminal) {
        close_input(input);
        return;
    }
    struct termios mode;
    if (tcgetattr(input->fd, &mode) != 0)
        return;
    uint8_t text[2] = {mode.c_cc[VEOF], mode.c_cc[VEOF]};
    bool open_line = (mode.c_lflag & ICANON) != 0 && input->last != 0 && input->last != '\n' &&
                     input->last != '\r';
    if (write(input->fd, text, open_line ? 2 : 1) < 0)
        errno = 0;
}

static void put_in_ring(struct input *input, const uint8_t *bytes, size_t size)
{
    size_t at = (input->start + input->used) % STREAM_WINDOW;
    size_t first = STREAM_WINDOW - at < size ? STREAM_WINDOW - at : size;
    memcpy(input->ring + at, bytes, first);
    memcpy(input->ring, bytes + first, size - first);
    input->used += size;
}

const char *stream_receive(struct command *command, const struct frame *frame)
{
    struct input *input = &command->input;
    if (input->end)
        return "input after its end";
    if (frame->length > input->window)
        return "more input than the window allows";
    input->end = frame->length == 0;
    if (input->fd < 0)
        return NULL;
    input->window -= frame->length;
    const uint8_t *bytes = frame->payload;
    size_t size = frame->length;
    if (input->used == 0 && size > 0) {
        ssize_t done = write_some(command, bytes, size);
        if (done < 0)
            return NULL;
        bytes += done;
        size -= (size_t)done;
    }
    put_in_ring(input, bytes, size);
    if (input->end && input->used == 0)
        end_input(command);
    return NULL;
}

void stream_write_input(struct command *command, short ready)
{
    struct input *input = &command->input;
    if (input->fd < 0)
        return;
    if ((ready & POLLERR) != 0 || (command->terminal && (ready & POLLHUP) != 0)) {
        abandon_input(command);
        return;
    }
    while (input->used > 0) {
        size_t first = STREAM_WINDOW - input->start;
        ssize_t done = write_some(command, input->ring + input->start,
                                  input->used < first ? input->used : first);
        if (done <= 0)
            return;
        input->start = (input->start + (size_t)done) % STREAM_WINDOW;
        input->used -= (size_t)done;
        if (input->used == 0 && input->end)
            end_input(command);
    }
}

short stream_input_events(const struct command *command)
{
    return command->input.used > 0 ? POLLOUT : 0;
}

const char *stream_credit(struct command *command, enum stream stream, uint32_t bytes)
{
    struct output *output = &command->outputs[stream - STREAM_STDOUT];
    if (bytes > STREAM_WINDOW - output->credit)
        return "credit for more than was sent";
    output->credit += bytes;
    return NULL;
}

void stream_close(struct command *command, enum stream stream)
{
    struct output *output = &command->outputs[stream - STREAM_STDOUT];
    if (output->fd < 0)
        return;
    close(output->fd);
    output->fd = -1;
    /* Without a reader a terminal hangs up; the group in its foreground gets SIGHUP. */
    if (command->terminal && command->input.fd >= 0)
        abandon_input(command);
    if (command->terminal && command->slave >= 0) {
        close(command->slave);
        command->slave = -1;
    }
}

void stream_resize(struct command *command, struct window_size size)
{
    struct winsize value = {
        .ws_row = size.rows,
        .ws_col = size.columns,
        .ws_xpixel = size.x_pixels,
        .ws_ypixel = size.y_pixels,
    };
    if (command->terminal && command->input.fd >= 0)
        ioctl(command->input.fd, TIOCSWINSZ, &value);
}

bool stream_wants_output(const struct command *command, int index)
{
    const struct output *output = &command->outputs[index];
    return output->fd >= 0 && output->credit > 0 &&
           (command->state != COMMAND_ENDED || output->left > 0) && channel_has_room_for_data();
}

static void send_end(struct command *command, int index)
{
    struct output *output = &command->outputs[index];
    if (!output->end_sent)
        channel_send(index == 0 ? FRAME_STDOUT : FRAME_STDERR, command->id, NULL, 0);
    output->end_sent = true;
}

/* Whether there may be more. */
static bool read_once(struct command *command, int index)
{
    struct output *output = &command->outputs[index];
    bool ended = command->state == COMMAND_ENDED;
    size_t size = output->credit < FRAME_PAYLOAD_MAX ? output->credit : FRAME_PAYLOAD_MAX;
    if (ended && output->left < size)
        size = output->left;
    uint8_t *place = channel_place();
    if (place == NULL || output->fd < 0 || size == 0)
        return false;
    ssize_t got = read(output->fd, place, size);
    if (got > 0) {
        channel_commit(index == 0 ? FRAME_STDOUT : FRAME_STDERR, command->id, (uint32_t)got);
        output->credit -= (uint32_t)got;
        output->left -= ended ? (size_t)got : 0;
        return (size_t)got == size;
    }
    if (got < 0 && errno == EINTR)
        return false;
    if (got < 0 && errno == EAGAIN) {
        /* Nothing now is, after the end, nothing ever. */
        output->left = 0;
        return false;
    }
    close(output->fd);
    output->fd = -1;
    /* A terminal whose users are gone may be opened again; its end is the command's. */
    if (!command->terminal)
        send_end(command, index);
    return false;
}

void stream_read_output(struct command *command, int index)
{
    while (read_once(command, index) && channel_has_room_for_data())
        continue;
}

void stream_end(struct command *command)
{
    if (command->input.fd >= 0 && !command->terminal)
        close_input(&command->input);
    for (int i = 0; i < 2; i++) {
        struct output *output = &command->outputs[i];
        int held = 0;
        output->left = 0;
        if (command->terminal)
            output->left = TERMINAL_REST;
        else if (output->fd >= 0 && ioctl(output->fd, FIONREAD, &held) == 0 && held > 0)
            output->left = (size_t)held;
    }
}

bool stream_is_drained(const struct command *command)
{
    for (int i = 0; i < 2; i++)
        if (command->outputs[i].fd >= 0 && command->outputs[i].left > 0)
            return false;
    return true;
}

void stream_send_ends(struct command *command)
{
    send_end(command, 0);
    send_end(command, 1);
}

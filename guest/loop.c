/* The loop of the agent: frames of the host to those they are for, readiness to the streams. */
#include "loop.h"

#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "agent.h"
#include "channel.h"
#include "checkpoint.h"
#include "command.h"
#include "sink.h"
#include "spec.h"
#include "stream.h"

static bool machine_is_ready;

/* The specification that is arriving. */
static struct {
    uint8_t *bytes;
    size_t size;
    uint8_t type;
    uint16_t id;
} arriving;

static const char *use_specification(void)
{
    if (arriving.type == FRAME_COMMAND)
        return command_start(arriving.id, arriving.bytes, arriving.size);
    agent_build_machine(arriving.bytes, arriving.size);
    machine_is_ready = true;
    return NULL;
}

static const char *receive_specification(const struct frame *frame)
{
    bool first = arriving.bytes == NULL;
    if (!first && (arriving.type != frame->type || arriving.id != frame->id))
        return "a specification inside another";
    if (frame->type == FRAME_MACHINE && machine_is_ready)
        return "second machine specification";
    if (frame->type == FRAME_COMMAND && !machine_is_ready)
        return "command before the machine specification";
    if (frame->type == FRAME_COMMAND && command_id_state(frame->id) != ID_UNUSED)
        return "id of a command used again";
    if (first) {
        arriving.bytes = mmap(NULL, SPEC_MAX + 1, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (arriving.bytes == MAP_FAILED)
            return "no memory for a specification";
        arriving.type = frame->type;
        arriving.id = frame->id;
        arriving.size = 0;
    }
    if (frame->length > SPEC_MAX - arriving.size)
        return "specification too long";
    memcpy(arriving.bytes + arriving.size, frame->payload, frame->length);
    arriving.size += frame->length;
    if (!frame->end)
        return NULL;
    const char *why = use_specification();
    munmap(arriving.bytes, SPEC_MAX + 1);
    arriving.bytes = NULL;
    return why;
}

static const char *receive_for_command(const struct frame *frame)
{
    if (command_id_state(frame->id) == ID_UNUSED)
        return "frame for a command that was never started";
    struct command *command = command_find(frame->id);
    if (command == NULL)
        return NULL;
    switch (frame->type) {
    case FRAME_STDIN: return stream_receive(command, frame);
    case FRAME_SIGNAL: command_signal(command, frame_signal(frame)); return NULL;
    case FRAME_RESIZE: stream_resize(command, frame_window_size(frame)); return NULL;
    case FRAME_CREDIT: return stream_credit(command, frame_stream(frame), frame_credit(frame));
    default: stream_close(command, frame_stream(frame)); return NULL;
    }
}

static const char *receive(const struct frame *frame)
{
    if (frame->type == FRAME_POWEROFF)
        agent_power_off(true);
    if (frame->type == FRAME_FREEZE)
        return checkpoint_freeze(frame);
    if (frame->type == FRAME_THAW)
        return checkpoint_thaw(frame);
    if (checkpoint_is_frozen())
        return "frame for a frozen machine";
    if (frame->type == FRAME_MACHINE || frame->type == FRAME_COMMAND)
        return receive_specification(frame);
    return receive_for_command(frame);
}

static void receive_frames(void)
{
    while (channel_has_room_for_answers()) {
        struct frame frame;
        const char *why = NULL;
        size_t size;
        const uint8_t *bytes = channel_input(&size);
        long used = frame_decode(bytes, size, &frame, &why);
        if (used > 0)
            why = receive(&frame);
        if (why != NULL)
            agent_fail("protocol", 0, why);
        if (used == 0)
            return;
        channel_consume((size_t)used);
    }
}

/* What a descriptor in the table of poll(2) belongs to. */
struct watch {
    enum { WATCH_CHANNEL, WATCH_CHILDREN, WATCH_INPUT, WATCH_OUTPUT, WATCH_SINK } kind;
    int index;
    int stream;
};

enum { WATCHES_MAX = 2 + 3 * COMMANDS_MAX + SINKS_MAX };

static struct pollfd polled[WATCHES_MAX];
static struct watch watches[WATCHES_MAX];
static nfds_t watched;

static void watch(int fd, int events, struct watch what)
{
    polled[watched] = (struct pollfd){.fd = fd, .events = (short)events};
    watches[watched++] = what;
}

static void watch_command(int index)
{
    const struct command *command = &commands[index];
    if (command->input.fd >= 0 && command->state != COMMAND_ENDED)
        watch(command->input.fd, stream_input_events(command),
              (struct watch){WATCH_INPUT, index, 0});
    for (int i = 0; i < 2; i++)
        if (stream_wants_output(command, i))
            watch(command->outputs[i].fd, POLLIN, (struct watch){WATCH_OUTPUT, index, i});
}

static void watch_all(int children)
{
    watched = 0;
    int events = (channel_has_room_for_answers() ? POLLIN : 0) |
                 (channel_wants_to_write() ? POLLOUT : 0);
    watch(channel_fd(), events, (struct watch){WATCH_CHANNEL, 0, 0});
    if (checkpoint_is_frozen())
        return;
    watch(children, POLLIN, (struct watch){WATCH_CHILDREN, 0, 0});
    for (int i = 0; i < COMMANDS_MAX; i++)
        if (commands[i].state != COMMAND_FREE)
            watch_command(i);
    for (int i = 0; i < SINKS_MAX; i++)
        if (sink_descriptor(i) >= 0)
            watch(sink_descriptor(i), POLLIN, (struct watch){WATCH_SINK, i, 0});
}

/* An event is for the command that had the slot when poll(2) was called; a descriptor that has
 * changed since is left for the next round. */
static void handle(const struct watch *what, const struct pollfd *event)
{
    struct command *command = &commands[what->index];
    switch (what->kind) {
    case WATCH_INPUT:
        if (command->input.fd == event->fd)
            stream_write_input(command, event->revents);
        break;
    case WATCH_OUTPUT:
        if (command->outputs[what->stream].fd == event->fd &&
            stream_wants_output(command, what->stream))
            stream_read_output(command, what->stream);
        break;
    case WATCH_SINK:
        if (sink_descriptor(what->index) == event->fd)
            sink_read(what->index);
        break;
    case WATCH_CHANNEL:
    case WATCH_CHILDREN:
        break;
    }
}

static void finish_commands(void)
{
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *command = &commands[i];
        if (command->state != COMMAND_ENDED)
            continue;
        for (int j = 0; j < 2; j++)
            while (stream_wants_output(command, j))
                stream_read_output(command, j);
        command_finish(command);
    }
}

/* What was ready when poll(2) was called: streams, and commands that have ended. */
static void serve_commands(int children)
{
    for (nfds_t i = 2; i < watched; i++)
        if (polled[i].revents != 0)
            handle(&watches[i], &polled[i]);
    struct signalfd_siginfo ignored[8];
    if (watched > 1 && polled[1].revents != 0 && read(children, ignored, sizeof ignored) > 0)
        command_reap();
    finish_commands();
}

_Noreturn void loop_serve(int children)
{
    for (;;) {
        watch_all(children);
        if (poll(polled, watched, -1) < 0)
            continue;
        bool alive = true;
        if ((polled[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0)
            alive = channel_fill();
        receive_frames();
        if (!checkpoint_is_frozen())
            serve_commands(children);
        if (!channel_flush() || !alive)
            agent_power_off(false);
    }
}

/* Commands: the table of those under way, how they begin, and how they end. */
#include "command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "builtin.h"
#include "channel.h"
#include "child.h"
#include "files.h"
#include "sink.h"
#include "stream.h"

enum { PIPE_SIZE = 1 << 20, ID_COUNT = 65536, TTY_GROUP = 5 };

struct command commands[COMMANDS_MAX];

/* Untouched pages of these cost nothing. */
static uint8_t rings[COMMANDS_MAX][STREAM_WINDOW] __attribute__((aligned(4096)));
static uint8_t slot_of_id[ID_COUNT];
static const uint8_t ended_mark = 255;

enum id_state command_id_state(uint16_t id)
{
    if (slot_of_id[id] == 0)
        return ID_UNUSED;
    return slot_of_id[id] == ended_mark ? ID_ENDED : ID_IN_USE;
}

struct command *command_find(uint16_t id)
{
    return command_id_state(id) == ID_IN_USE ? &commands[slot_of_id[id] - 1] : NULL;
}

static struct command *claim(uint16_t id)
{
    for (size_t i = 0; i < COMMANDS_MAX; i++) {
        if (commands[i].state != COMMAND_FREE)
            continue;
        commands[i] = (struct command){.id = id, .slave = -1};
        commands[i].input = (struct input){.fd = -1, .ring = rings[i], .window = STREAM_WINDOW};
        for (int j = 0; j < 2; j++)
            commands[i].outputs[j] = (struct output){.fd = -1, .credit = STREAM_WINDOW};
        slot_of_id[id] = (uint8_t)(i + 1);
        return &commands[i];
    }
    return NULL;
}

static void close_descriptor(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void release(struct command *command)
{
    close_descriptor(&command->slave);
    close_descriptor(&command->input.fd);
    close_descriptor(&command->outputs[0].fd);
    close_descriptor(&command->outputs[1].fd);
    madvise(command->input.ring, STREAM_WINDOW, MADV_DONTNEED);
    slot_of_id[command->id] = ended_mark;
    command->state = COMMAND_FREE;
}

static void report_failure(uint16_t id, int error, const char *text)
{
    struct record_writer *records = channel_begin_records();
    record_put_text(records, 2, "command", 7);
    record_put_number(records, 3, (uint64_t)error);
    record_put_text(records, 4, text, strlen(text));
    channel_send_records(FRAME_FAILED, id);
}

static int duplicate(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* Opens a pty: the agent's master is both input and output; the child gets the slave. */
static bool open_terminal(struct command *command, struct child *child)
{
    const struct command_spec *spec = child->spec;
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (master < 0)
        return false;
    command->input.fd = master;
    command->outputs[0].fd = duplicate(master);
    command->outputs[1].end_sent = true;
    int locked = 0;
    struct winsize size = {.ws_row = spec->rows, .ws_col = spec->columns};
    if (command->outputs[0].fd < 0 || ioctl(master, TIOCSPTLCK, &locked) != 0)
        return false;
    command->slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (command->slave < 0)
        return false;
    ioctl(master, TIOCSWINSZ, &size);
    struct termios mode;
    if (tcgetattr(command->slave, &mode) == 0) {
        mode.c_iflag |= IUTF8;
        tcsetattr(command->slave, TCSANOW, &mode);
    }
    if (spec->has_uid && fchown(command->slave, spec->uid, TTY_GROUP) != 0)
        errno = 0;
    for (int i = 0; i < 3; i++)
        child->descriptors[i] = command->slave;
    return true;
}

static bool open_pipe(int *agent_end, int *child_end, int agent_index)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    *agent_end = ends[agent_index];
    *child_end = ends[1 - agent_index];
    /* Only the agent's end: the program expects its own to block. */
    fcntl(*agent_end, F_SETFL, O_NONBLOCK);
    fcntl(*agent_end, F_SETPIPE_SZ, PIPE_SIZE);
    return true;
}

static bool open_streams(struct command *command, struct child *child)
{
    if (child->spec->terminal)
        return open_terminal(command, child);
    return open_pipe(&command->input.fd, &child->descriptors[0], 1) &&
           open_pipe(&command->outputs[0].fd, &child->descriptors[1], 0) &&
           open_pipe(&command->outputs[1].fd, &child->descriptors[2], 0);
}

/* False with the reason in `child`. */
static bool launch(struct command *command, struct child *child)
{
    if (open_streams(command, child))
        command->pid = child->spec->builtin != NULL ? builtin_start(child) : child_start(child);
    if (command->pid <= 0) {
        child->error = errno;
        snprintf(child->failure, sizeof child->failure, "machine: make a process");
    } else if (child->error != 0) {
        waitpid(command->pid, NULL, 0);
    }
    for (int i = 0; i < 3; i++)
        if (child->descriptors[i] != command->slave)
            close_descriptor(&child->descriptors[i]);
    return child->error == 0;
}

static void report_start(const struct command *command)
{
    struct record_writer *records = channel_begin_records();
    record_put_number(records, 5, (uint64_t)command->pid);
    channel_send_records(FRAME_STARTED, command->id);
}

const char *command_start(uint16_t id, uint8_t *bytes, size_t size)
{
    struct command_spec spec;
    const char *why = command_decode(bytes, size, &spec);
    if (why != NULL)
        return why;
    struct command *command = claim(id);
    if (command == NULL) {
        slot_of_id[id] = ended_mark;
        report_failure(id, EAGAIN, "machine: run so many commands at a time");
        return NULL;
    }
    command->terminal = spec.terminal;
    struct child child = {.spec = &spec, .descriptors = {-1, -1, -1}};
    size_t pointers = spec.argc + spec.envc + 6;
    size_t arena_size = pointers * sizeof(char *) + spec.group_count * sizeof(gid_t);
    char **arena = mmap(NULL, arena_size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bool good = arena != MAP_FAILED;
    if (good) {
        gid_t *groups = (gid_t *)(void *)(arena + pointers);
        child.argv = arena + 1;
        child.environment = arena + spec.argc + 2;
        child.groups = groups;
        command_vectors(bytes, size, child.argv, child.environment, groups);
        good = launch(command, &child);
        munmap(arena, arena_size);
    } else {
        child.error = errno;
        snprintf(child.failure, sizeof child.failure, "machine: hold the arguments");
    }
    if (good) {
        command->state = COMMAND_RUNNING;
        report_start(command);
    } else {
        report_failure(id, child.error, child.failure);
        release(command);
    }
    return NULL;
}

static struct command *find_process(pid_t pid)
{
    for (size_t i = 0; i < COMMANDS_MAX; i++) {
        if (commands[i].state == COMMAND_RUNNING && commands[i].pid == pid)
            return &commands[i];
    }
    return NULL;
}

void command_reap(void)
{
    int status;
    struct rusage usage;
    pid_t pid;
    while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
        struct command *command = find_process(pid);
        if (command == NULL)
            continue;
        command->state = COMMAND_ENDED;
        command->status = status;
        command->usage = usage;
        stream_end(command);
    }
}

static uint64_t microseconds(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000u + (uint64_t)time.tv_usec;
}

void command_finish(struct command *command)
{
    if (command->state != COMMAND_ENDED || !stream_is_drained(command))
        return;
    stream_send_ends(command);
    int status = command->status;
    struct record_writer *records = channel_begin_records();
    if (WIFSIGNALED(status)) {
        record_put_number(records, 7, (uint64_t)WTERMSIG(status));
        record_put_number(records, 8, WCOREDUMP(status) ? 1 : 0);
    } else {
        record_put_number(records, 6, (uint64_t)WEXITSTATUS(status));
    }
    record_put_number(records, 9, microseconds(command->usage.ru_utime));
    record_put_number(records, 10, microseconds(command->usage.ru_stime));
    record_put_number(records, 11, (uint64_t)command->usage.ru_maxrss * 1024u);
    channel_send_records(FRAME_EXITED, command->id);
    for (int i = 0; i < 2 && !command->terminal; i++) {
        sink_adopt(command->outputs[i].fd);
        command->outputs[i].fd = -1;
    }
    release(command);
}

/* Whether a process catches or ignores TSTP. What it blocks says nothing: a shell blocks every signal
 * for the moment of a fork. */
static bool has_own_stop(pid_t pid)
{
    char path[32], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    read_small_file(path, text, sizeof text);
    unsigned long long own = 0;
    static const char *const masks[] = {"SigIgn:", "SigCgt:"};
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        const char *found = strstr(text, masks[i]);
        if (found != NULL)
            own |= strtoull(found + strlen(masks[i]), NULL, 16);
    }
    return (own >> (SIGTSTP - 1) & 1) != 0;
}

void command_signal(struct command *command, int number)
{
    if (command->state == COMMAND_ENDED)
        return;
    pid_t foreground = 0;
    if (command->terminal && command->input.fd >= 0)
        ioctl(command->input.fd, TIOCGPGRP, &foreground);
    if (foreground > 0 && foreground != command->pid) {
        kill(-foreground, number);
        if (number == SIGINT || number == SIGQUIT || number == SIGTSTP)
            return;
    }
    /* Linux drops a TSTP with the default action in a group whose parent is PID 1. */
    if (number == SIGTSTP && !has_own_stop(command->pid))
        number = SIGSTOP;
    kill(-command->pid, number);
}

static void kill_everything(void)
{
    if (!agent_is_test()) {
        kill(-1, SIGKILL);
        return;
    }
    for (size_t i = 0; i < COMMANDS_MAX; i++)
        if (commands[i].state == COMMAND_RUNNING)
            kill(-commands[i].pid, SIGKILL);
    char children[4096];
    read_small_file("/proc/thread-self/children", children, sizeof children);
    for (char *at = children, *end; *at != 0; at = end) {
        long pid = strtol(at, &end, 10);
        if (end == at)
            break;
        if (pid > 1)
            kill((pid_t)pid, SIGKILL);
        end += strspn(end, " \n");
    }
}

void command_kill_all(void)
{
    /* A process that does not die in 10 s hangs in a device or in a shared folder. */
    enum { PATIENCE_STEPS = 1000 };
    const struct timespec step = {.tv_nsec = 10000000};
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    kill_everything();
    for (int idle = 0; idle < PATIENCE_STEPS;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0 && errno == ECHILD)
            return;
        if (pid > 0)
            continue;
        if (sigtimedwait(&child, NULL, &step) < 0) {
            /* One may have forked while the signal went round. */
            idle++;
            kill_everything();
        }
    }
}

/* Commands: the table of those under way, how they begin, and how they end. */
#ifndef APPPOT_COMMAND_H
#define APPPOT_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "frame.h"

enum { COMMANDS_MAX = 64 };

enum command_state { COMMAND_FREE, COMMAND_RUNNING, COMMAND_ENDED };

/* Host to command. The bytes wait in `ring` while the command does not read. */
struct input {
    int fd;
    uint8_t *ring;
    size_t start, used;
    /* What the host may still send, and what has been passed on without a CREDIT yet. */
    size_t window, uncredited;
    bool end;
    uint8_t last;
};

/* Command to host. */
struct output {
    int fd;
    uint32_t credit;
    bool end_sent;
    /* After the end of the command: how much more is read. */
    size_t left;
};

struct command {
    enum command_state state;
    uint16_t id;
    bool terminal;
    pid_t pid;
    /* Terminal: held open, so that the last reader of the terminal is never told an end. */
    int slave;
    struct input input;
    struct output outputs[2];
    int status;
    struct rusage usage;
};

extern struct command commands[COMMANDS_MAX];

enum id_state { ID_UNUSED, ID_IN_USE, ID_ENDED };
enum id_state command_id_state(uint16_t id);
/* NULL unless the id is in use. */
struct command *command_find(uint16_t id);

/* Starts what the specification asks (it is overwritten). NULL, or how the specification breaks
 * the protocol; a command that cannot be started is reported to the host. */
const char *command_start(uint16_t id, uint8_t *bytes, size_t size);

/* Collects every process that has ended. */
void command_reap(void);
/* Sends EXITED if the command has ended and all its output has been sent. */
void command_finish(struct command *command);
void command_signal(struct command *command, int number);

/* All processes but this one are killed and collected. */
void command_kill_all(void);

#endif

/* What a new process does before it is the program. */
#ifndef APPPOT_CHILD_H
#define APPPOT_CHILD_H

#include "account.h"
#include "spec.h"

struct child {
    const struct command_spec *spec;
    /* The element before the first is the agent's too: a script without `#!` needs it. */
    char **argv;
    /* With room for three more (HOME, USER, LOGNAME). */
    char **environment;
    const gid_t *groups;
    int descriptors[3];
    /* Why it gave up: errno, and what was tried. 0: it did not. */
    int error;
    char failure[256];
    /* The defaults for its environment. */
    char texts[3][ACCOUNT_TEXT_MAX + 16];
    size_t text_count;
};

/* Starts the process; returns once it has become its program or given up. Its id, or -1. */
pid_t child_start(struct child *child);

#endif

/* What a new process does between fork and exec. */
#ifndef APPPOT_CHILD_H
#define APPPOT_CHILD_H

#include "spec.h"

enum { REPORT_TEXT_MAX = 240 };

/* What a child writes to its report pipe if it fails, in one atomic write. */
struct report {
    int error;
    char text[REPORT_TEXT_MAX];
};

struct child {
    const struct command_spec *spec;
    /* The element before the first is the agent's too: a script without `#!` needs it. */
    char **argv;
    /* With room for three more (HOME, USER, LOGNAME). */
    char **environment;
    const gid_t *groups;
    int descriptors[3];
    int report;
};

_Noreturn void child_run(const struct child *child);

#endif

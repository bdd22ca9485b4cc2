/* Commands that the agent itself can do: `archive` and `unpack`. */
#ifndef APPPOT_BUILTIN_H
#define APPPOT_BUILTIN_H

#include "child.h"

/* For guest root, who calls /proc/1/exe with these words; returns the exit status. */
int builtin_inside(char **argv);

/* Starts a copy of the agent that does it. Its id, or -1. */
pid_t builtin_start(struct child *child);

#endif

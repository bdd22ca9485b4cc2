/* Commands that the agent itself can do: `archive` and `unpack`. */
#ifndef APPPOT_BUILTIN_H
#define APPPOT_BUILTIN_H

#include "child.h"

/* Starts a copy of the agent that does it. Its id, or -1. */
pid_t builtin_start(struct child *child);

#endif

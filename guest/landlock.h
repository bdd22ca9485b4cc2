/* Landlock: what a process and its children may reach, given up for good. */
#ifndef APPPOT_LANDLOCK_H
#define APPPOT_LANDLOCK_H

#include <stdbool.h>

enum access { ACCESS_LIST, ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE };

/* The version of Landlock that the running kernel offers; 0: none. */
int landlock_version(void);

/* A new ruleset that allows nothing, for this version; -1 with errno. */
int landlock_make(int version, bool no_tcp);

/* Allows access to what the descriptor is open on, and, for a folder, all below. -1 with errno. */
int landlock_allow(int ruleset, int version, int fd, enum access access);

/* Needs no_new_privs. -1 with errno. */
int landlock_enforce(int ruleset);

#endif

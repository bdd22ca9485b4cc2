/* Walks through a folder and writes what it finds to a tar archive. */
#ifndef APPPOT_WALK_H
#define APPPOT_WALK_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "tar.h"

struct walk {
    /* What is left out: fnmatch(3) on whole paths; NULL: nothing. */
    char **excludes;
    /* How many layers are below. */
    unsigned layers;
    /* The tree as the guest sees it: where renamed folders' contents are. */
    int merged;
    bool leave_made_out;
    /* A layer leaves with all that it says, also if it changes nothing: its digest is that of all. */
    bool exact;
    /* Deletions as GNU tar tells them: by the names of what is there. */
    bool dump;
    char failed_at[PATH_MAX + 1];
};

/* Archives an overlay's upper folder, or a layer. False with errno and `failed_at`. */
bool walk_upper(struct walk *walk, int folder);
/* Archives a file or a folder with all that is in it; the path is below `merged`. */
bool walk_tree(struct walk *walk, const char *path);
/* Archives what is at a path, if it is there and no folder, after the folders above it. */
bool walk_file(struct walk *walk, const char *path);

/* Opens a mount without those below it; -1 with errno. */
int walk_open_tree(const char *path);
/* Opens a folder; links are followed as if `root` were the root. */
int walk_open_inside(int root, const char *path);

#endif

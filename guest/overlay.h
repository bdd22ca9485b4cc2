/* What overlayfs notes in its upper folder, and how it compares with the layers below. */
#ifndef APPPOT_OVERLAY_H
#define APPPOT_OVERLAY_H

#include <stdbool.h>
#include <sys/stat.h>

struct overlay_notes {
    /* It hides the layers' folder of the same name. */
    bool opaque;
    /* It has the contents of a layers' folder of another name. */
    bool renamed;
};

struct overlay_notes overlay_notes(int folder);

/* The topmost of the lowest `layers` layers that has a folder of this path. */
bool overlay_lower(unsigned layers, const char *path, struct stat *found);
bool overlay_same_folder(const struct stat *one, const struct stat *other);

#endif

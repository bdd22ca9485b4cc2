/* What overlayfs notes in its upper folder, and how it compares with the layers below. */
#ifndef APPPOT_OVERLAY_H
#define APPPOT_OVERLAY_H

#include <stdbool.h>

struct overlay_notes {
    /* It hides the layers' folder of the same name. */
    bool opaque;
    /* It has the contents of a layers' folder of another name. */
    bool renamed;
};

struct overlay_notes overlay_notes(int folder);
/* Whether an extended attribute is one of overlayfs's own. */
bool overlay_is_note(const char *name);

/* Opens the folder of this path in the topmost of the lowest `layers` layers that has one; or -1. */
int overlay_lower(unsigned layers, const char *path);
/* Whether two open folders have the same owner, mode and attributes. */
bool overlay_same_folder(int one, int other);

#endif

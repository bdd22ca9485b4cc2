/* What is in a folder, in the archive's order. */
#ifndef APPPOT_LISTING_H
#define APPPOT_LISTING_H

#include <stdbool.h>
#include <stddef.h>

struct listing {
    struct listed {
        /* What it is sorted by: the name, or that of the mark for a deleted file. */
        const char *key, *name;
    } *files;
    size_t count;
    char *text;
    size_t used, room;
};

/* Reads the names in a folder that was just opened, sorted by their bytes. In an overlay's upper
 * folder a deleted file is at the place of its mark, `.wh.NAME`. False with errno. */
bool listing_read(struct listing *listing, int folder, bool overlay);
void listing_free(struct listing *listing);

#endif

/* Folders as GNU tar's incremental archives have them: with the names of all that is in them. */
#ifndef APPPOT_DUMP_H
#define APPPOT_DUMP_H

#include <stdbool.h>

#include "tar.h"

/* Writes the header of a folder, whose attributes are in the entry already, and the list of its
 * names: `merged` is the folder as the guest sees it, `upper` what the archive will have of it. */
bool dump_folder(struct tar_entry *entry, int merged, int upper);

#endif

/* How volumes with user data are told from others, and scripts from other user data. Pure. */
#ifndef APPPOT_VOLUME_H
#define APPPOT_VOLUME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "orders.h"

/* Whether user data is a script, and so a payload. */
bool userdata_is_script(struct bytes data);

/* The type of the file system at the begin of a volume, if it has the label of one with user data:
 * `*file` is where that is. NULL: it is something else. `head` has VOLUME_HEAD bytes. */
enum { VOLUME_HEAD = 36864 };
const char *userdata_volume(const uint8_t *head, const char **file);

#endif

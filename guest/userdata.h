/* What the owner of an instance has given it to run: volumes that a cloud attaches for it. */
#ifndef APPPOT_USERDATA_H
#define APPPOT_USERDATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "orders.h"

/* A script goes to its command's input in one piece. */
enum { USERDATA_MAX = 131072 };

/* The user data of a NoCloud volume (label `cidata`) or a ConfigDrive (`config-2`); /dev and /sys
 * have to be there. Empty: there is none. */
struct bytes userdata_from_volumes(void);

#endif

/* The user that a machine provides: passwd, group, shadow, home, sudo. */
#ifndef APPPOT_USER_H
#define APPPOT_USER_H

#include <stdbool.h>

#include "spec.h"

/* False: see last_failure(). */
bool user_provide(const struct machine_spec *spec);

#endif

/* Host name, interfaces, addresses, routes, and the files that name them. */
#ifndef APPPOT_NETWORK_H
#define APPPOT_NETWORK_H

#include <stdbool.h>

#include "spec.h"

/* False: see last_failure(). */
bool network_configure(const struct machine_spec *spec);

#endif

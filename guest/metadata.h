/* The metadata service of EC2 and of those that offer the same. */
#ifndef APPPOT_METADATA_H
#define APPPOT_METADATA_H

#include <stdbool.h>

#include "orders.h"

/* Whether the machine's maker says that there is such a service; /sys has to be there. */
bool metadata_expected(void);
/* Asks for user data and for the owner's first key, with a session's token (IMDSv2) where the
 * service gives one; the network has to be there. What there is not is empty. */
void metadata_fetch(struct bytes *user_data, struct bytes *key);

#endif

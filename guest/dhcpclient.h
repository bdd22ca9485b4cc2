/* Asks the network for an address. */
#ifndef APPPOT_DHCPCLIENT_H
#define APPPOT_DHCPCLIENT_H

#include <stdbool.h>

#include "dhcp.h"

/* Brings eth0 up and asks for a lease for some seconds. NULL, or why there is none. */
const char *dhcp_acquire(struct lease *lease);

/* Asks for the lease again and again before it is over, and never returns: for a process of its
 * own. `changed` is told of another address, which eth0 has then. */
_Noreturn void dhcp_keep(struct lease lease, void (*changed)(const struct lease *));

#endif

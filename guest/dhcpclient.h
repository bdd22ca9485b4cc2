/* Asks the network for an address. */
#ifndef APPPOT_DHCPCLIENT_H
#define APPPOT_DHCPCLIENT_H

#include <stdbool.h>

#include "dhcp.h"

/* Brings eth0 up and asks for a lease for some seconds. NULL, or why there is none. */
const char *dhcp_acquire(struct lease *lease);

#endif

/* DHCP messages (RFC 2131, 2132), as IP packets. Pure: bytes to structs, and back. */
#ifndef APPPOT_DHCP_H
#define APPPOT_DHCP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DHCP_PACKET_MAX = 1500,
    DHCP_SERVERS_MAX = 8,
    DHCP_USUAL_PREFIX = 24,
    DHCP_DISCOVER = 1,
    DHCP_OFFER = 2,
    DHCP_REQUEST = 3,
    DHCP_ACK = 5,
    DHCP_NAK = 6,
};

/* Addresses in the order of the network, 0: none. */
struct lease {
    uint32_t address, server, router;
    uint32_t name_servers[DHCP_SERVERS_MAX];
    size_t name_server_count;
    unsigned prefix, mtu;
    uint32_t seconds;
    char domain[256];
};

/* `own` is the address that the client has and wants to keep, 0: none. */
struct dhcp_client {
    uint32_t transaction, own;
    uint8_t hardware[6];
};

/* Writes a message to all servers into `packet` (DHCP_PACKET_MAX bytes) and returns its length.
 * A request is for the address of `wanted`; a discovery needs none, nor who has an address. */
size_t dhcp_encode(uint8_t *packet, const struct dhcp_client *client, int type,
                   const struct lease *wanted);

/* The type of the message in an IP packet that is an answer to the client; 0: it is none. */
int dhcp_decode(const uint8_t *packet, size_t size, const struct dhcp_client *client,
                struct lease *lease);

#endif

/* DHCP messages (RFC 2131, 2132), as IP packets. */
#include "dhcp.h"

#include <string.h>

enum {
    IP_HEADER = 20,
    UDP_HEADER = 8,
    MESSAGE = 236,
    COOKIE = 4,
    SMALLEST = IP_HEADER + UDP_HEADER + MESSAGE + COOKIE,
    CLIENT_PORT = 68,
    SERVER_PORT = 67,
    UDP = 17,
    OPTION_MASK = 1,
    OPTION_ROUTER = 3,
    OPTION_NAME_SERVER = 6,
    OPTION_DOMAIN = 15,
    OPTION_MTU = 26,
    OPTION_ADDRESS = 50,
    OPTION_SECONDS = 51,
    OPTION_TYPE = 53,
    OPTION_SERVER = 54,
    OPTION_WISHES = 55,
    OPTION_END = 255,
};

static const uint8_t cookie[COOKIE] = {99, 130, 83, 99};

static void put16(uint8_t *to, unsigned value)
{
    to[0] = (uint8_t)(value >> 8 & 0xff);
    to[1] = (uint8_t)(value & 0xff);
}

static unsigned get16(const uint8_t *from)
{
    return (unsigned)from[0] << 8 | from[1];
}

static uint32_t get32(const uint8_t *from)
{
    return (uint32_t)get16(from) << 16 | get16(from + 2);
}

static uint32_t get_address(const uint8_t *from)
{
    uint32_t address;
    memcpy(&address, from, sizeof address);
    return address;
}

static unsigned checksum(const uint8_t *bytes, size_t size)
{
    uint32_t sum = 0;
    for (size_t i = 0; i + 1 < size; i += 2)
        sum += get16(bytes + i);
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

static uint8_t *put_option(uint8_t *at, uint8_t option, const void *value, uint8_t length)
{
    at[0] = option;
    at[1] = length;
    memcpy(at + 2, value, length);
    return at + 2 + length;
}

size_t dhcp_encode(uint8_t *packet, const struct dhcp_client *client, int type,
                   const struct lease *wanted)
{
    memset(packet, 0, DHCP_PACKET_MAX);
    uint8_t *udp = packet + IP_HEADER, *message = udp + UDP_HEADER;
    message[0] = 1;
    message[1] = 1;
    message[2] = sizeof client->hardware;
    memcpy(message + 4, &client->transaction, 4);
    if (client->own == 0)
        message[10] = 0x80; /* answers to everybody: nothing has this address yet */
    memcpy(message + 12, &client->own, 4);
    memcpy(message + 28, client->hardware, sizeof client->hardware);
    memcpy(message + MESSAGE, cookie, COOKIE);
    uint8_t *at = message + MESSAGE + COOKIE;
    const uint8_t kind = (uint8_t)type;
    at = put_option(at, OPTION_TYPE, &kind, 1);
    if (type == DHCP_REQUEST && client->own == 0) {
        at = put_option(at, OPTION_ADDRESS, &wanted->address, 4);
        at = put_option(at, OPTION_SERVER, &wanted->server, 4);
    }
    static const uint8_t wishes[] = {OPTION_MASK, OPTION_ROUTER, OPTION_NAME_SERVER, OPTION_DOMAIN,
                                     OPTION_MTU};
    at = put_option(at, OPTION_WISHES, wishes, sizeof wishes);
    *at++ = OPTION_END;
    /* Some servers want BOOTP's whole length. */
    size_t length = (size_t)(at - packet) < SMALLEST + 60 ? SMALLEST + 60 : (size_t)(at - packet);
    put16(udp, CLIENT_PORT);
    put16(udp + 2, SERVER_PORT);
    put16(udp + 4, (unsigned)length - IP_HEADER);
    packet[0] = 0x45;
    put16(packet + 2, (unsigned)length);
    packet[8] = 64;
    packet[9] = UDP;
    memcpy(packet + 12, &client->own, 4);
    memset(packet + 16, 0xff, 4);
    put16(packet + 10, checksum(packet, IP_HEADER));
    return length;
}

static void read_name_servers(struct lease *lease, const uint8_t *value, unsigned length)
{
    for (unsigned i = 0; i + 4 <= length && lease->name_server_count < DHCP_SERVERS_MAX; i += 4)
        lease->name_servers[lease->name_server_count++] = get_address(value + i);
}

/* What ends up in a file of lines is letters, digits, dots and hyphens. */
static void read_domain(struct lease *lease, const uint8_t *value, unsigned length)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-";
    while (length > 0 && value[length - 1] == 0)
        length--;
    for (unsigned i = 0; i < length; i++)
        if (value[i] == 0 || strchr(allowed, value[i]) == NULL)
            return;
    memcpy(lease->domain, value, length);
    lease->domain[length] = 0;
}

static unsigned prefix_of(uint32_t mask)
{
    unsigned prefix = 0;
    while (prefix < 32 && (mask & (UINT32_C(1) << (31 - prefix))) != 0)
        prefix++;
    return prefix;
}

static void read_option(struct lease *lease, unsigned option, const uint8_t *value, unsigned length)
{
    switch (option) {
    case OPTION_MASK:
        if (length == 4)
            lease->prefix = prefix_of(get32(value));
        break;
    case OPTION_ROUTER:
        if (length >= 4)
            lease->router = get_address(value);
        break;
    case OPTION_SERVER:
        if (length == 4)
            lease->server = get_address(value);
        break;
    case OPTION_NAME_SERVER: read_name_servers(lease, value, length); break;
    case OPTION_DOMAIN: read_domain(lease, value, length); break;
    case OPTION_MTU:
        if (length == 2)
            lease->mtu = get16(value);
        break;
    case OPTION_SECONDS:
        if (length == 4)
            lease->seconds = get32(value);
        break;
    default: break;
    }
}

static int read_options(struct lease *lease, const uint8_t *at, const uint8_t *end)
{
    int type = 0;
    while (at < end && *at != OPTION_END) {
        if (*at == 0) {
            at++;
            continue;
        }
        if (end - at < 2 || end - at - 2 < at[1])
            return 0;
        if (*at == OPTION_TYPE && at[1] == 1)
            type = at[2];
        read_option(lease, at[0], at + 2, at[1]);
        at += 2 + at[1];
    }
    return type;
}

int dhcp_decode(const uint8_t *packet, size_t size, const struct dhcp_client *client,
                struct lease *lease)
{
    memset(lease, 0, sizeof *lease);
    size_t header = size > 0 ? (packet[0] & 15u) * 4u : 0;
    if (header < IP_HEADER || size < SMALLEST - IP_HEADER + header || packet[0] >> 4 != 4 ||
        packet[9] != UDP || (get16(packet + 6) & 0x3fff) != 0 || get16(packet + 2) > size)
        return 0;
    size = get16(packet + 2);
    const uint8_t *udp = packet + header, *message = udp + UDP_HEADER;
    if (size < SMALLEST - IP_HEADER + header || get16(udp) != SERVER_PORT ||
        get16(udp + 2) != CLIENT_PORT)
        return 0;
    if (message[0] != 2 || memcmp(message + 4, &client->transaction, 4) != 0 ||
        memcmp(message + 28, client->hardware, sizeof client->hardware) != 0 ||
        memcmp(message + MESSAGE, cookie, COOKIE) != 0)
        return 0;
    lease->address = get_address(message + 16);
    return read_options(lease, message + MESSAGE + COOKIE, packet + size);
}

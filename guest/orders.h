/* What an exported disk's machine is to be and do: the records on its partition for orders. */
#ifndef APPPOT_ORDERS_H
#define APPPOT_ORDERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORDERS_MAGIC "APPPOT\0\2"

enum { ORDERS_HEADER = 16 };

struct bytes {
    const uint8_t *bytes;
    size_t size;
};

struct orders {
    /* Specifications, as a host would send them: the machine, what runs a script that it gets on its
     * input, and what each console shows. */
    struct bytes machine, payload, login;
    /* Takes the place of the instance's user data if there is none. */
    struct bytes script;
    /* What starts an SSH server that lets the owner of the key in, which it gets on its input. */
    struct bytes ssh, key;
    /* The machine stays on after its payload's end. */
    bool stays;
    /* Addresses are asked for by DHCP. */
    bool network;
};

/* How long the records behind the header are; 0: it is not a header. */
size_t orders_size(const uint8_t *header);
/* NULL, or what is wrong. The orders point into `bytes`. */
const char *orders_decode(const uint8_t *bytes, size_t size, struct orders *orders);

#endif

/* One answer of an HTTP server. Pure. */
#ifndef APPPOT_HTTP_H
#define APPPOT_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "orders.h"

/* The body of an answer that is whole, and says 200; empty: it is something else. */
struct bytes http_body(const uint8_t *answer, size_t size);

#endif

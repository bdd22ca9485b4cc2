/* Fuzzes what a machine without a host reads: orders, DHCP, partition tables, labels, results. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "dhcp.h"
#include "gpt.h"
#include "host.h"
#include "http.h"
#include "orders.h"
#include "volume.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(struct bytes part, const uint8_t *data, size_t size)
{
    assert(part.size <= size);
    assert(part.size == 0 || (part.bytes >= data && part.bytes + part.size <= data + size));
}

static void try_orders(const uint8_t *data, size_t size)
{
    struct orders orders;
    if (size >= ORDERS_HEADER)
        orders_size(data);
    if (orders_decode(data, size, &orders) != NULL)
        return;
    assert(orders.machine.size > 0 && orders.payload.size > 0);
    inside(orders.machine, data, size);
    inside(orders.payload, data, size);
    inside(orders.login, data, size);
    inside(orders.script, data, size);
    inside(orders.ssh, data, size);
    inside(orders.key, data, size);
}

static void try_dhcp(const uint8_t *data, size_t size)
{
    struct dhcp_client client = {0};
    struct lease lease;
    if (dhcp_decode(data, size, &client, &lease) == 0)
        return;
    assert(lease.name_server_count <= DHCP_SERVERS_MAX && lease.prefix <= 32);
    assert(memchr(lease.domain, 0, sizeof lease.domain) != NULL);
    assert(strpbrk(lease.domain, " \n") == NULL);
}

/* Checksums would keep everything out: the fuzzer's bytes go over a table that is sound. */
static void try_table(const uint8_t *data, size_t size)
{
    static uint8_t head[GPT_HEAD], tail[GPT_TAIL];
    memset(head, 0, sizeof head);
    memcpy(head, data, size < sizeof head ? size : sizeof head);
    struct extent extent = gpt_grow(head, tail, size * 97, size > 0 ? data[0] : 0);
    assert(extent.count == 0 || extent.first + extent.count <= size * 97);
}

static void try_volume(const uint8_t *data, size_t size)
{
    static uint8_t head[VOLUME_HEAD];
    const char *file = NULL;
    memset(head, 0, sizeof head);
    if (size > 0 && data[0] == 1 && size <= 4096)
        memcpy(head + 32768, data, size);
    else
        memcpy(head, data, size < sizeof head ? size : sizeof head);
    assert(userdata_volume(head, &file) == NULL || file != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome outcome;
    try_orders(data, size);
    try_dhcp(data, size);
    try_table(data, size);
    try_volume(data, size);
    inside(http_body(data, size), data, size);
    host_read_outcome(data, size, &outcome);
    assert(host_status(&outcome) < 128 || outcome.has_signal || outcome.has_code);
    return 0;
}

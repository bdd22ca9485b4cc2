/* The host's part in a machine that has no host: one that was booted from an exported disk.
 *
 * The agent starts it with its channel as descriptor 3. It reads what the machine is to be from a
 * partition of the disk, has the agent make it, and passes its payload's output on to the consoles
 * and to files in the writable partition. Its own root stays the initramfs. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "console.h"
#include "dhcpclient.h"
#include "files.h"
#include "grow.h"
#include "host.h"
#include "metadata.h"
#include "orders.h"
#include "partition.h"
#include "record.h"
#include "results.h"
#include "userdata.h"
#include "volume.h"

enum { AGENT = 3, PAYLOAD = 1, SSH = 2, FIRST_LOGIN = 3, EXTRA = 4096, PATH_SIZE = 300 };

static struct {
    struct orders orders;
    struct bytes script;
    char scratch[PATH_SIZE];
    uint8_t *machine;
    size_t machine_size;
    struct timespec started;
    /* The command on each console; 0: none. */
    uint16_t logins[CONSOLES_MAX];
    uint16_t last_id;
} keeper;

static _Noreturn void give_up(const char *what, const char *why)
{
    consoles_say("apppot: %s: %s\n", what, why);
    /* The agent powers the machine off when its channel ends. */
    exit(1);
}

/* The value of a word `NAME=VALUE` of the kernel's command line; empty if there is none. */
static void kernel_word(const char *name, char *value, size_t size)
{
    char line[4096];
    size_t length = strlen(name);
    value[0] = 0;
    read_small_file("/proc/cmdline", line, sizeof line);
    for (char *word = strtok(line, " \n"); word != NULL; word = strtok(NULL, " \n"))
        if (strncmp(word, name, length) == 0 && word[length] == '=')
            snprintf(value, size, "%s", word + length + 1);
}

static void read_orders(void)
{
    char uuid[64], device[PATH_SIZE];
    uint8_t header[ORDERS_HEADER];
    kernel_word("apppot.disk", uuid, sizeof uuid);
    if (!partition_find(uuid, device, sizeof device))
        give_up("no disk has the partition with this machine's orders", uuid);
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, header, sizeof header, 0) != sizeof header)
        give_up(device, strerror(errno));
    size_t size = orders_size(header);
    uint8_t *bytes = size > 0 ? malloc(size) : NULL;
    if (bytes == NULL || pread(fd, bytes, size, ORDERS_HEADER) != (ssize_t)size)
        give_up(device, "there are no orders in it");
    close(fd);
    const char *why = orders_decode(bytes, size, &keeper.orders);
    if (why != NULL)
        give_up("the orders on the disk are damaged", why);
}

static void put_address(struct record_writer *writer, uint16_t tag, uint32_t address)
{
    char text[INET_ADDRSTRLEN];
    if (inet_ntop(AF_INET, &address, text, sizeof text) != NULL)
        record_put_text(writer, tag, text, strlen(text));
}

static void say_address(const struct lease *lease)
{
    char address[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &lease->address, address, sizeof address);
    consoles_say("apppot: the network's address is %s now\n", address);
}

static void keep_lease(const struct lease *lease)
{
    if (fork() != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(AGENT);
    dhcp_keep(*lease, say_address);
}

/* A machine that has no network starts all the same: its payload may not need one. */
static void put_network(struct record_writer *writer)
{
    enum { ADDRESS = 10, GATEWAY = 11, SERVER = 12, SEARCH = 13, MTU = 15 };
    struct lease lease;
    const char *why = dhcp_acquire(&lease);
    if (why != NULL) {
        consoles_say("apppot: no network: %s\n", why);
        return;
    }
    char address[INET_ADDRSTRLEN], text[INET_ADDRSTRLEN + 16];
    inet_ntop(AF_INET, &lease.address, address, sizeof address);
    snprintf(text, sizeof text, "%s/%u", address, lease.prefix != 0 ? lease.prefix : DHCP_USUAL_PREFIX);
    record_put_text(writer, ADDRESS, text, strlen(text));
    if (lease.router != 0)
        put_address(writer, GATEWAY, lease.router);
    for (size_t i = 0; i < lease.name_server_count; i++)
        put_address(writer, SERVER, lease.name_servers[i]);
    if (lease.domain[0] != 0)
        record_put_text(writer, SEARCH, lease.domain, strlen(lease.domain));
    if (lease.mtu >= 576)
        record_put_number(writer, MTU, lease.mtu);
    keep_lease(&lease);
}

/* Copies the machine's specification; partitions that are named by their UUID get their paths. */
static void make_machine(void)
{
    enum { LAYER = 2, SCRATCH = 3 };
    static const char by_uuid[] = "PARTUUID=";
    const size_t prefix = sizeof by_uuid - 1;
    struct bytes from = keeper.orders.machine;
    size_t capacity = from.size * 2 + EXTRA;
    struct record_writer writer = {.bytes = malloc(capacity), .capacity = capacity};
    struct record_reader reader = {.bytes = from.bytes, .size = from.size};
    struct record record;
    if (writer.bytes == NULL)
        give_up("the machine's specification", "no memory");
    while (record_next(&reader, &record) > 0) {
        char uuid[64] = "", device[PATH_SIZE];
        bool names_device = record.tag == LAYER || record.tag == SCRATCH;
        if (!names_device || record.length <= prefix || record.length - prefix >= sizeof uuid ||
            memcmp(record.data, by_uuid, prefix) != 0) {
            record_put_text(&writer, record.tag, (const char *)record.data, record.length);
            continue;
        }
        memcpy(uuid, record.data + prefix, record.length - prefix);
        if (!partition_find(uuid, device, sizeof device))
            give_up("the disk has no partition", uuid);
        if (record.tag == SCRATCH) {
            grow_partition(device);
            memcpy(keeper.scratch, device, sizeof device);
        }
        record_put_text(&writer, record.tag, device, strlen(device));
    }
    if (keeper.orders.network)
        put_network(&writer);
    keeper.machine = writer.bytes;
    keeper.machine_size = writer.used;
}

static void start_login(size_t console)
{
    if (keeper.orders.login.size == 0 || keeper.last_id == UINT16_MAX)
        return;
    keeper.logins[console] = ++keeper.last_id;
    host_send_specification(AGENT, FRAME_COMMAND, keeper.last_id, keeper.orders.login.bytes,
                            keeper.orders.login.size);
}

/* Its whole input fits the window that a command's input has. */
static void start_with_input(uint16_t id, struct bytes command, struct bytes input)
{
    host_send_specification(AGENT, FRAME_COMMAND, id, command.bytes, command.size);
    for (size_t at = 0; at < input.size; at += FRAME_PAYLOAD_MAX) {
        size_t left = input.size - at;
        host_send(AGENT, FRAME_STDIN, id, input.bytes + at,
                  (uint32_t)(left < FRAME_PAYLOAD_MAX ? left : FRAME_PAYLOAD_MAX));
    }
    host_send(AGENT, FRAME_STDIN, id, NULL, 0);
}

/* What the instance has from its owner goes before what the disk has. */
static void ask_the_cloud(void)
{
    struct bytes user_data = {0}, key = {0};
    if (!metadata_expected())
        return;
    metadata_fetch(&user_data, &key);
    if (keeper.script.size == 0)
        keeper.script = user_data;
    if (key.size != 0)
        keeper.orders.key = key;
}

static void ready(void)
{
    clock_gettime(CLOCK_MONOTONIC, &keeper.started);
    if (keeper.scratch[0] != 0)
        grow_file_system(keeper.scratch, "/scratch");
    keeper.last_id = FIRST_LOGIN - 1;
    ask_the_cloud();
    if (!userdata_is_script(keeper.script))
        keeper.script = keeper.orders.script;
    bool is_script = userdata_is_script(keeper.script);
    if (keeper.orders.key.size > 0 && keeper.orders.ssh.size > 0)
        start_with_input(SSH, keeper.orders.ssh, keeper.orders.key);
    if (is_script) {
        results_open();
        consoles_say("apppot: the payload starts\n");
        start_with_input(PAYLOAD, keeper.orders.payload, keeper.script);
    }
    for (size_t i = 0; i < console_count && (!is_script || keeper.orders.stays); i++)
        start_login(i);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - keeper.started.tv_sec) +
           (double)(now.tv_nsec - keeper.started.tv_nsec) / 1e9;
}

static void payload_ended(const struct frame *frame)
{
    struct outcome outcome;
    host_read_outcome(frame->payload, frame->length, &outcome);
    results_close(&outcome, seconds());
    if (!keeper.orders.stays)
        host_send(AGENT, FRAME_POWEROFF, 0, NULL, 0);
}

static void command_ended(const struct frame *frame)
{
    if (frame->id == PAYLOAD) {
        payload_ended(frame);
        return;
    }
    for (size_t i = 0; i < console_count; i++) {
        if (keeper.logins[i] != frame->id)
            continue;
        keeper.logins[i] = 0;
        /* A login program that is not there would be started for ever. */
        if (frame->type == FRAME_EXITED)
            start_login(i);
    }
}

static void pass_output(const struct frame *frame)
{
    bool is_error = frame->type == FRAME_STDERR;
    if (frame->length == 0)
        return;
    if (frame->id == PAYLOAD)
        results_output(is_error, frame->payload, frame->length);
    for (size_t i = 0; i < console_count; i++)
        if (keeper.logins[i] == frame->id && write(consoles[i], frame->payload, frame->length) < 0)
            continue;
    host_send_credit(AGENT, frame->id, is_error ? STREAM_STDERR : STREAM_STDOUT, frame->length);
}

static void receive(void)
{
    static uint8_t payload[FRAME_PAYLOAD_MAX];
    struct frame frame;
    if (!host_receive(AGENT, &frame, payload))
        exit(0);
    struct outcome outcome;
    switch (frame.type) {
    case FRAME_HELLO:
        host_send_specification(AGENT, FRAME_MACHINE, 0, keeper.machine, keeper.machine_size);
        break;
    case FRAME_READY: ready(); break;
    case FRAME_STDOUT:
    case FRAME_STDERR: pass_output(&frame); break;
    case FRAME_EXITED: command_ended(&frame); break;
    case FRAME_FAILED:
        host_read_outcome(frame.payload, frame.length, &outcome);
        consoles_say("apppot: %s: %s%s%s\n", outcome.stage, outcome.text,
                     outcome.error != 0 ? ": " : "",
                     outcome.error != 0 ? strerror((int)outcome.error) : "");
        if (frame.id != 0)
            command_ended(&frame);
        break;
    case FRAME_NOTICE:
        consoles_say("apppot: %.*s\n", (int)frame.length, (const char *)frame.payload);
        break;
    default: break;
    }
}

/* What is typed while nobody is logged in, or faster than it is read, is lost, as on any terminal:
 * no more than a line at a time is taken. */
static void type(size_t console)
{
    uint8_t typed[256];
    ssize_t got = read(consoles[console], typed, sizeof typed);
    if (got > 0 && keeper.logins[console] != 0)
        host_send(AGENT, FRAME_STDIN, keeper.logins[console], typed, (uint32_t)got);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    mkdir("/sys", 0755);
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    consoles_open();
    read_orders();
    make_machine();
    keeper.script = userdata_from_volumes();
    if (!host_receive_magic(AGENT))
        give_up("the agent", "no answer");
    for (;;) {
        struct pollfd polled[1 + CONSOLES_MAX] = {{.fd = AGENT, .events = POLLIN}};
        for (size_t i = 0; i < console_count; i++)
            polled[1 + i] = (struct pollfd){.fd = keeper.logins[i] != 0 ? consoles[i] : -1,
                                            .events = POLLIN};
        if (poll(polled, 1 + console_count, -1) < 0)
            continue;
        if (polled[0].revents != 0)
            receive();
        for (size_t i = 0; i < console_count; i++)
            if (polled[1 + i].revents != 0)
                type(i);
    }
}

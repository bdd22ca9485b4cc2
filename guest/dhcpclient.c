/* Asks the network for an address. */
#include "dhcpclient.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <net/route.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char interface[] = "eth0";

enum {
    INTERFACE_STEPS = 300,
    STEP_MILLISECONDS = 10,
    FIRST_WAIT = 500,
    LAST_WAIT = 8000,
    RETRY = 60, /* seconds */
    CLIENT_PORT = 68,
};

static long milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool bring_up(int fd, struct dhcp_client *client)
{
    struct ifreq request = {0};
    memcpy(request.ifr_name, interface, sizeof interface);
    for (int i = 0; ioctl(fd, SIOCGIFFLAGS, &request) != 0; i++) {
        if (i == INTERFACE_STEPS)
            return false;
        poll(NULL, 0, STEP_MILLISECONDS);
    }
    request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
    if (ioctl(fd, SIOCSIFFLAGS, &request) != 0 || ioctl(fd, SIOCGIFHWADDR, &request) != 0)
        return false;
    memcpy(client->hardware, request.ifr_hwaddr.sa_data, sizeof client->hardware);
    return true;
}

/* Waits for an answer of this type (or a refusal); 0 if none comes in time. */
static int wait_for(int fd, const struct dhcp_client *client, int type, int wait,
                    struct lease *lease)
{
    uint8_t packet[DHCP_PACKET_MAX];
    long end = milliseconds() + wait;
    for (;;) {
        long left = end - milliseconds();
        struct pollfd polled = {.fd = fd, .events = POLLIN};
        if (left <= 0 || poll(&polled, 1, (int)left) == 0)
            return 0;
        ssize_t got = recv(fd, packet, sizeof packet, MSG_DONTWAIT);
        if (got <= 0)
            continue;
        int answer = dhcp_decode(packet, (size_t)got, client, lease);
        if (answer == type || (answer == DHCP_NAK && type == DHCP_ACK))
            return answer;
    }
}

static bool ask(int fd, const struct dhcp_client *client, int type, const struct lease *wanted)
{
    uint8_t packet[DHCP_PACKET_MAX];
    size_t size = dhcp_encode(packet, client, type, wanted);
    struct sockaddr_ll all = {.sll_family = AF_PACKET,
                              .sll_protocol = htons(ETH_P_IP),
                              .sll_ifindex = (int)if_nametoindex(interface),
                              .sll_halen = 6,
                              .sll_addr = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
    return sendto(fd, packet, size, 0, (struct sockaddr *)&all, sizeof all) >= 0;
}

/* A socket for the interface's packets; -1: there is none, and `why` says so. */
static int listen_to(struct dhcp_client *client, const char **why)
{
    int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_IP));
    *why = "no packet socket";
    if (fd < 0)
        return -1;
    *why = "there is no interface eth0";
    if (bring_up(fd, client)) {
        struct sockaddr_ll own = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_IP),
                                  .sll_ifindex = (int)if_nametoindex(interface)};
        if (bind(fd, (struct sockaddr *)&own, sizeof own) == 0)
            return fd;
        *why = "the interface cannot be used";
    }
    close(fd);
    return -1;
}

static void begin(struct dhcp_client *client)
{
    getrandom(&client->transaction, sizeof client->transaction, GRND_NONBLOCK);
}

static const char *negotiate(int fd, struct dhcp_client *client, struct lease *lease)
{
    /* The first question often goes out before the link is up. */
    for (int wait = FIRST_WAIT; wait <= LAST_WAIT; wait *= 2) {
        struct lease offer;
        begin(client);
        if (!ask(fd, client, DHCP_DISCOVER, NULL) ||
            wait_for(fd, client, DHCP_OFFER, wait, &offer) != DHCP_OFFER)
            continue;
        if (ask(fd, client, DHCP_REQUEST, &offer) &&
            wait_for(fd, client, DHCP_ACK, LAST_WAIT, lease) == DHCP_ACK && lease->address != 0)
            return NULL;
    }
    return "no DHCP server answers";
}

const char *dhcp_acquire(struct lease *lease)
{
    struct dhcp_client client = {0};
    const char *why = NULL;
    int fd = listen_to(&client, &why);
    if (fd < 0)
        return why;
    why = negotiate(fd, &client, lease);
    close(fd);
    return why;
}

/* The answer to "may I keep it": yes (DHCP_ACK), no (DHCP_NAK), or 0, none. */
static int ask_to_keep(struct lease *lease)
{
    struct dhcp_client client = {.own = lease->address};
    struct lease answer;
    const char *why = NULL;
    int fd = listen_to(&client, &why), said = 0;
    if (fd < 0)
        return 0;
    begin(&client);
    if (ask(fd, &client, DHCP_REQUEST, NULL))
        said = wait_for(fd, &client, DHCP_ACK, LAST_WAIT, &answer);
    close(fd);
    if (said == DHCP_ACK && answer.address == lease->address)
        lease->seconds = answer.seconds;
    return said;
}

static bool set(int fd, int what, uint32_t address)
{
    struct ifreq request = {0};
    struct sockaddr_in value = {.sin_family = AF_INET, .sin_addr = {address}};
    memcpy(request.ifr_name, interface, sizeof interface);
    memcpy(&request.ifr_addr, &value, sizeof value);
    return ioctl(fd, what, &request) == 0;
}

static void take_address(const struct lease *lease)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    struct sockaddr_in any = {.sin_family = AF_INET}, router = any;
    router.sin_addr.s_addr = lease->router;
    memcpy(&route.rt_dst, &any, sizeof any);
    memcpy(&route.rt_genmask, &any, sizeof any);
    memcpy(&route.rt_gateway, &router, sizeof router);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    unsigned prefix = lease->prefix != 0 ? lease->prefix : DHCP_USUAL_PREFIX;
    set(fd, SIOCSIFADDR, lease->address);
    set(fd, SIOCSIFNETMASK, htonl(UINT32_MAX << (32 - prefix)));
    if (lease->router != 0)
        ioctl(fd, SIOCADDRT, &route);
    close(fd);
}

/* The server's answers go to a port; without a reader the kernel would refuse them. */
static void keep_port(void)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(CLIENT_PORT)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int size = 0;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (bind(fd, (struct sockaddr *)&own, sizeof own) != 0)
        close(fd);
}

/* RFC 2131, 4.4.5: after half of what is left, but not again within a minute. */
static long pause_before(uint32_t seconds, long left)
{
    long least = seconds < 2 * RETRY ? 1 : RETRY;
    return left / 2 > least ? left / 2 : least;
}

void dhcp_keep(struct lease lease, void (*changed)(const struct lease *))
{
    long since = milliseconds() / 1000;
    keep_port();
    for (;;) {
        if (lease.seconds == 0 || lease.seconds == UINT32_MAX)
            pause();
        long left = since + (long)lease.seconds - milliseconds() / 1000;
        sleep((unsigned)pause_before(lease.seconds, left));
        long asked = milliseconds() / 1000;
        int said = ask_to_keep(&lease);
        if (said == DHCP_ACK)
            since = asked;
        struct lease other;
        if (said != DHCP_NAK || dhcp_acquire(&other) != NULL)
            continue;
        if (other.address != lease.address) {
            take_address(&other);
            changed(&other);
        }
        lease = other;
        since = milliseconds() / 1000;
    }
}

/* Asks the network for an address. */
#include "dhcpclient.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char interface[] = "eth0";

enum { INTERFACE_STEPS = 300, STEP_MILLISECONDS = 10, FIRST_WAIT = 500, LAST_WAIT = 8000 };

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

static const char *negotiate(int fd, struct dhcp_client *client, struct lease *lease)
{
    if (!bring_up(fd, client))
        return "there is no interface eth0";
    struct sockaddr_ll own = {.sll_family = AF_PACKET,
                              .sll_protocol = htons(ETH_P_IP),
                              .sll_ifindex = (int)if_nametoindex(interface)};
    if (bind(fd, (struct sockaddr *)&own, sizeof own) != 0)
        return "the interface cannot be used";
    /* The first question often goes out before the link is up. */
    for (int wait = FIRST_WAIT; wait <= LAST_WAIT; wait *= 2) {
        struct lease offer;
        getrandom(&client->transaction, sizeof client->transaction, GRND_NONBLOCK);
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
    int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_IP));
    if (fd < 0)
        return "no packet socket";
    const char *why = negotiate(fd, &client, lease);
    close(fd);
    return why;
}

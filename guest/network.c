/* Host name, interfaces, addresses, routes, and the files that name them. */
#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "failure.h"
#include "files.h"

enum { INTERFACE_WAIT_STEPS = 200, INTERFACE_WAIT_NANOSECONDS = 10000000 };

struct request {
    struct nlmsghdr header;
    union {
        struct ifinfomsg link;
        struct ifaddrmsg address;
        struct rtmsg route;
    } body;
    char attributes[256];
};

struct ip {
    unsigned char family, length, prefix;
    unsigned char bytes[16];
};

static void begin(struct request *request, unsigned short type, size_t body, unsigned flags)
{
    memset(request, 0, sizeof *request);
    request->header.nlmsg_len = (unsigned)NLMSG_LENGTH(body);
    request->header.nlmsg_type = type;
    request->header.nlmsg_flags = (unsigned short)(NLM_F_REQUEST | NLM_F_ACK | flags);
}

static void put(struct request *request, unsigned short type, const void *value, size_t size)
{
    size_t at = NLMSG_ALIGN(request->header.nlmsg_len);
    if (at + RTA_LENGTH(size) > sizeof *request)
        return;
    struct rtattr attribute = {.rta_len = (unsigned short)RTA_LENGTH(size), .rta_type = type};
    char *place = (char *)request + at;
    memcpy(place, &attribute, sizeof attribute);
    memcpy(place + RTA_LENGTH(0), value, size);
    request->header.nlmsg_len = (unsigned)(at + RTA_LENGTH(size));
}

/* Sends the request and returns the kernel's answer: 0 or an errno. */
static int ask(int fd, struct request *request)
{
    struct {
        struct nlmsghdr header;
        struct nlmsgerr answer;
        char rest[1024];
    } reply;
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (sendto(fd, request, request->header.nlmsg_len, 0, (struct sockaddr *)&kernel,
               sizeof kernel) < 0)
        return errno;
    ssize_t got = recv(fd, &reply, sizeof reply, 0);
    if (got < 0)
        return errno;
    if ((size_t)got < sizeof reply.header + sizeof reply.answer.error ||
        reply.header.nlmsg_type != NLMSG_ERROR)
        return EPROTO;
    return -reply.answer.error;
}

static int bring_up(int fd, unsigned index, uint64_t mtu)
{
    struct request request;
    begin(&request, RTM_NEWLINK, sizeof request.body.link, 0);
    request.body.link.ifi_index = (int)index;
    request.body.link.ifi_flags = IFF_UP;
    request.body.link.ifi_change = IFF_UP;
    if (mtu != 0)
        put(&request, IFLA_MTU, &(uint32_t){(uint32_t)mtu}, sizeof(uint32_t));
    return ask(fd, &request);
}

/* Reads `text` (an address, with `/PREFIX` if `prefix`). */
static bool parse_ip(const char *text, bool prefix, struct ip *ip)
{
    char address[INET6_ADDRSTRLEN + 1];
    const char *slash = strchr(text, '/');
    size_t length = slash != NULL ? (size_t)(slash - text) : strlen(text);
    if ((slash != NULL) != prefix || length >= sizeof address)
        return false;
    memcpy(address, text, length);
    address[length] = 0;
    ip->family = strchr(address, ':') != NULL ? AF_INET6 : AF_INET;
    ip->length = ip->family == AF_INET6 ? 16 : 4;
    if (inet_pton(ip->family, address, ip->bytes) != 1)
        return false;
    if (!prefix)
        return true;
    char *end;
    long bits = strtol(slash + 1, &end, 10);
    if (slash[1] < '0' || slash[1] > '9' || *end != 0 || bits > ip->length * 8)
        return false;
    ip->prefix = (unsigned char)bits;
    return true;
}

static int add_address(int fd, unsigned index, const struct ip *ip)
{
    struct request request;
    begin(&request, RTM_NEWADDR, sizeof request.body.address, NLM_F_CREATE | NLM_F_REPLACE);
    request.body.address.ifa_family = ip->family;
    request.body.address.ifa_prefixlen = ip->prefix;
    /* The address is the host's choice: no second spent on finding out whether it is taken. */
    request.body.address.ifa_flags = ip->family == AF_INET6 ? IFA_F_NODAD : 0;
    request.body.address.ifa_index = index;
    put(&request, IFA_LOCAL, ip->bytes, ip->length);
    put(&request, IFA_ADDRESS, ip->bytes, ip->length);
    if (ip->family == AF_INET && ip->prefix < 31) {
        struct in_addr broadcast;
        memcpy(&broadcast, ip->bytes, sizeof broadcast);
        broadcast.s_addr |= htonl(UINT32_MAX >> ip->prefix);
        put(&request, IFA_BROADCAST, &broadcast, sizeof broadcast);
    }
    return ask(fd, &request);
}

static int add_default_route(int fd, unsigned index, const struct ip *ip)
{
    struct request request;
    begin(&request, RTM_NEWROUTE, sizeof request.body.route, NLM_F_CREATE | NLM_F_REPLACE);
    request.body.route.rtm_family = ip->family;
    request.body.route.rtm_table = RT_TABLE_MAIN;
    request.body.route.rtm_protocol = RTPROT_STATIC;
    request.body.route.rtm_scope = RT_SCOPE_UNIVERSE;
    request.body.route.rtm_type = RTN_UNICAST;
    /* Clouds hand out gateways outside the address's own prefix. */
    request.body.route.rtm_flags = RTNH_F_ONLINK;
    put(&request, RTA_GATEWAY, ip->bytes, ip->length);
    put(&request, RTA_OIF, &index, sizeof index);
    return ask(fd, &request);
}

static unsigned find_interface(const char *name)
{
    unsigned index = if_nametoindex(name);
    for (int i = 0; index == 0 && i < INTERFACE_WAIT_STEPS; i++) {
        nanosleep(&(struct timespec){.tv_nsec = INTERFACE_WAIT_NANOSECONDS}, NULL);
        index = if_nametoindex(name);
    }
    return index;
}

static bool configure_eth0(int fd, const struct machine_spec *spec)
{
    struct ip ip = {0};
    unsigned index = find_interface("eth0");
    if (index == 0)
        return fail("network", ENODEV, "find the interface eth0");
    set_kernel_value("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0");
    int error = bring_up(fd, index, spec->mtu);
    if (error != 0)
        return fail("network", error, "bring up eth0");
    for (size_t i = 0; i < spec->addresses.count; i++) {
        const char *text = spec->addresses.items[i];
        error = parse_ip(text, true, &ip) ? add_address(fd, index, &ip) : EINVAL;
        if (error != 0)
            return fail("network", error, "add the address %s", text);
    }
    for (size_t i = 0; i < spec->gateways.count; i++) {
        const char *text = spec->gateways.items[i];
        error = parse_ip(text, false, &ip) ? add_default_route(fd, index, &ip) : EINVAL;
        if (error != 0)
            return fail("network", error, "add the gateway %s", text);
    }
    return true;
}

static bool configure_interfaces(const struct machine_spec *spec)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) {
        if (spec->addresses.count == 0)
            return true;
        return fail("network", errno, "open a netlink socket");
    }
    unsigned loopback = if_nametoindex("lo");
    if (loopback != 0)
        bring_up(fd, loopback, 0);
    bool good = spec->addresses.count == 0 || configure_eth0(fd, spec);
    close(fd);
    set_kernel_value("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    return good;
}

static bool write_hosts(const struct machine_spec *spec)
{
    /* What need not change stays out of the layer that may be made of this machine's changes. */
    if (spec->hostname == NULL && spec->hosts.count == 0 && access("/etc/hosts", F_OK) == 0)
        return true;
    int fd = create_file("/etc/hosts", 0644);
    if (fd < 0)
        return fail("network", errno, "write /etc/hosts");
    int done = dprintf(fd, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    if (done > 0 && spec->hostname != NULL)
        done = dprintf(fd, "127.0.1.1 %s\n", spec->hostname);
    for (size_t i = 0; done > 0 && i < spec->hosts.count; i++)
        done = dprintf(fd, "%s\n", spec->hosts.items[i]);
    int error = errno;
    close(fd);
    return done > 0 ? true : fail("network", error, "write /etc/hosts");
}

static bool write_resolver(const struct machine_spec *spec)
{
    if (spec->name_servers.count == 0 && spec->search.count == 0)
        return true;
    int fd = create_file("/etc/resolv.conf", 0644);
    if (fd < 0)
        return fail("network", errno, "write /etc/resolv.conf");
    int done = 1;
    for (size_t i = 0; done > 0 && i < spec->search.count; i++)
        done = dprintf(fd, "%s%s%s", i == 0 ? "search " : " ", spec->search.items[i],
                       i + 1 == spec->search.count ? "\n" : "");
    for (size_t i = 0; done > 0 && i < spec->name_servers.count; i++)
        done = dprintf(fd, "nameserver %s\n", spec->name_servers.items[i]);
    int error = errno;
    close(fd);
    return done > 0 ? true : fail("network", error, "write /etc/resolv.conf");
}

static bool set_hostname(const char *name)
{
    if (name == NULL || name[0] == 0)
        return true;
    if (sethostname(name, strlen(name)) != 0)
        return fail("network", errno, "set the host name %.80s", name);
    int fd = create_file("/etc/hostname", 0644);
    if (fd < 0 || dprintf(fd, "%s\n", name) < 0)
        return fail("network", errno, "write /etc/hostname");
    close(fd);
    return true;
}

bool network_configure(const struct machine_spec *spec)
{
    return set_hostname(spec->hostname) && write_hosts(spec) && write_resolver(spec) &&
           configure_interfaces(spec);
}

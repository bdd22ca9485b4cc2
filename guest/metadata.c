/* The metadata service of EC2 and of those that offer the same. */
#include "metadata.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "http.h"
#include "userdata.h"

enum { PATIENCE = 5000, ANSWER_MAX = USERDATA_MAX + 16384, TOKEN_MAX = 512, PORT = 80 };

#define SERVICE "169.254.169.254"

static bool says(const char *name, const char *text)
{
    char path[80], value[128];
    snprintf(path, sizeof path, "/sys/class/dmi/id/%s", name);
    read_small_file(path, value, sizeof value);
    return strncmp(value, text, strlen(text)) == 0;
}

bool metadata_expected(void)
{
    return says("sys_vendor", "Amazon EC2") || says("product_name", "OpenStack") ||
           says("chassis_asset_tag", "OpenStack");
}

static long milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool wait_for(int fd, short events, long end)
{
    struct pollfd polled = {.fd = fd, .events = events};
    long left = end - milliseconds();
    return left > 0 && poll(&polled, 1, (int)left) == 1;
}

static bool converse(int fd, const char *request, uint8_t *answer, size_t *size)
{
    struct sockaddr_in service = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    inet_pton(AF_INET, SERVICE, &service.sin_addr);
    long end = milliseconds() + PATIENCE;
    if (connect(fd, (struct sockaddr *)&service, sizeof service) != 0 &&
        (errno != EINPROGRESS || !wait_for(fd, POLLOUT, end)))
        return false;
    /* Much shorter than any socket's buffer. */
    if (send(fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request))
        return false;
    for (*size = 0; *size < ANSWER_MAX && wait_for(fd, POLLIN, end);) {
        ssize_t got = recv(fd, answer + *size, ANSWER_MAX - *size, 0);
        if (got == 0)
            return true;
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        *size += got > 0 ? (size_t)got : 0;
    }
    return false;
}

/* The body of the answer, in memory of its own; empty: there was none. */
static struct bytes ask(const char *method, const char *path, const char *header)
{
    char request[TOKEN_MAX + 512];
    struct bytes body = {0};
    uint8_t *answer = malloc(ANSWER_MAX);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    size_t size = 0;
    snprintf(request, sizeof request,
             "%s /latest/%s HTTP/1.0\r\nHost: " SERVICE "\r\nContent-Length: 0\r\n%s\r\n", method,
             path, header);
    if (answer != NULL && fd >= 0 && converse(fd, request, answer, &size))
        body = http_body(answer, size);
    if (fd >= 0)
        close(fd);
    if (body.size == 0 || body.size > USERDATA_MAX) {
        free(answer);
        return (struct bytes){0};
    }
    return body;
}

/* The header with a session's token; empty if the service has none, as OpenStack's. */
static void begin_session(char *header, size_t size)
{
    struct bytes token = ask("PUT", "api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n");
    bool usable = token.size > 0 && token.size <= TOKEN_MAX;
    for (size_t i = 0; i < token.size; i++)
        usable = usable && token.bytes[i] > ' ' && token.bytes[i] < 127;
    header[0] = 0;
    if (usable)
        snprintf(header, size, "X-aws-ec2-metadata-token: %.*s\r\n", (int)token.size,
                 (const char *)token.bytes);
}

void metadata_fetch(struct bytes *user_data, struct bytes *key)
{
    char header[TOKEN_MAX + 64];
    begin_session(header, sizeof header);
    *user_data = ask("GET", "user-data", header);
    *key = ask("GET", "meta-data/public-keys/0/openssh-key", header);
}

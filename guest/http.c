/* One answer of an HTTP server. */
#include "http.h"

#include <string.h>
#include <strings.h>

static size_t find_end(const uint8_t *text, size_t size, const char *end)
{
    size_t length = strlen(end);
    for (size_t i = 0; i + length <= size; i++)
        if (memcmp(text + i, end, length) == 0)
            return i + length;
    return 0;
}

/* The value of Content-Length; SIZE_MAX if there is none, or none that makes sense. */
static size_t declared(const uint8_t *head, size_t size)
{
    static const char name[] = "content-length:";
    const size_t most = 1u << 30;
    for (size_t at = find_end(head, size, "\r\n"); at != 0 && at < size;) {
        size_t line = find_end(head + at, size - at, "\r\n");
        if (line > sizeof name && strncasecmp((const char *)head + at, name, sizeof name - 1) == 0) {
            size_t value = 0, i = at + sizeof name - 1;
            while (head[i] == ' ')
                i++;
            for (; head[i] >= '0' && head[i] <= '9' && value < most; i++)
                value = value * 10 + (size_t)(head[i] - '0');
            return head[i] == '\r' ? value : SIZE_MAX;
        }
        if (line == 0)
            break;
        at += line;
    }
    return SIZE_MAX;
}

struct bytes http_body(const uint8_t *answer, size_t size)
{
    struct bytes none = {0};
    size_t head = find_end(answer, size, "\r\n\r\n");
    if (head == 0 || size < 12 || memcmp(answer, "HTTP/1.", 7) != 0 ||
        memcmp(answer + 8, " 200", 4) != 0)
        return none;
    size_t length = declared(answer, head);
    if (length == SIZE_MAX)
        length = size - head;
    return length > size - head ? none : (struct bytes){answer + head, length};
}

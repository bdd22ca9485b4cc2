/* What a payload without a host leaves: on the consoles, and in the writable partition. */
#include "results.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "console.h"

#define FOLDER "/scratch/results"

enum { BOOTS_MAX = 1000000 };

static int folder = -1, outputs[2] = {-1, -1};

void results_open(void)
{
    mkdir(FOLDER, 0755);
    char path[64];
    for (int i = 1; i < BOOTS_MAX; i++) {
        snprintf(path, sizeof path, FOLDER "/%d", i);
        if (mkdir(path, 0755) == 0 || errno != EEXIST)
            break;
    }
    folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) {
        consoles_say("apppot: results are not kept: %s: %s\n", path, strerror(errno));
        return;
    }
    const int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
    outputs[0] = openat(folder, "stdout", flags, 0644);
    outputs[1] = openat(folder, "stderr", flags, 0644);
}

void results_output(bool is_error, const uint8_t *bytes, size_t size)
{
    consoles_write(bytes, size);
    int fd = outputs[is_error ? 1 : 0];
    while (fd >= 0 && size > 0) {
        ssize_t done = write(fd, bytes, size);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            consoles_say("apppot: the payload's output is not kept from here on: %s\n",
                         strerror(errno));
            close(fd);
            outputs[is_error ? 1 : 0] = -1;
            return;
        }
        bytes += done;
        size -= (size_t)done;
    }
}

/* Texts of the agent's own: quotes and control characters become blanks. */
static void put_text(char *text, size_t size, const char *from)
{
    size_t i = 0;
    for (; from[i] != 0 && i + 1 < size; i++)
        text[i] = from[i] == '"' || from[i] == '\\' || (unsigned char)from[i] < ' ' ? ' ' : from[i];
    text[i] = 0;
}

static int render(char *line, size_t size, const struct outcome *outcome, double seconds)
{
    char signal[24] = "null", failure[600] = "null", text[512];
    if (outcome->has_signal)
        snprintf(signal, sizeof signal, "%" PRIu64, outcome->signal);
    put_text(text, sizeof text, outcome->text);
    if (outcome->stage[0] != 0)
        snprintf(failure, sizeof failure, "\"%s%s%s\"", text, outcome->error != 0 ? ": " : "",
                 outcome->error != 0 ? strerror((int)outcome->error) : "");
    return snprintf(line, size,
                    "{\"schema\": 1, \"status\": %u, \"signal\": %s, \"failure\": %s, "
                    "\"seconds\": %.3f, \"cpu_seconds\": %.3f, \"peak_memory\": %" PRIu64 "}",
                    host_status(outcome), signal, failure, seconds,
                    (double)(outcome->user_time + outcome->system_time) / 1e6,
                    outcome->peak_memory);
}

void results_close(const struct outcome *outcome, double seconds)
{
    char line[1024];
    int length = render(line, sizeof line, outcome, seconds);
    if (length < 0)
        return;
    for (int i = 0; i < 2; i++)
        if (outputs[i] >= 0)
            close(outputs[i]);
    int fd = folder < 0 ? -1 : openat(folder, "result.json", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd >= 0) {
        dprintf(fd, "%s\n", line);
        close(fd);
    }
    if (folder >= 0) {
        syncfs(folder);
        close(folder);
        folder = -1;
    }
    consoles_say("\napppot-result %s\n", line);
}

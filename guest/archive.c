/* The builtin `archive`: layers, changes, or parts of the whole tree as a tar archive.
 *
 *   archive changes [EXCLUDE...]          what differs from the layers
 *   archive dump [EXCLUDE...]             the same, as GNU tar's incremental archives have it
 *   archive layer NUMBER                  what a layer adds to those below it
 *   archive tree [--root PATH] PATTERN... files of all layers together
 *   archive files                         those at the paths of standard input
 *
 * `changes` and `layer` are in the form of the OCI image specification: an empty file `.wh.NAME` stands for
 * what is deleted, `.wh..wh..opq` for a folder that hides what is below it.
 */
#include "archive.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine.h"
#include "walk.h"

static int failed(const char *what, const char *path)
{
    fprintf(stderr, "%s %s: %s\n", what, path, strerror(errno));
    return 1;
}

static int finish(struct walk *walk, bool good)
{
    if (good && tar_end())
        return 0;
    if (walk->failed_at[0] != 0)
        return failed("cannot archive", walk->failed_at);
    return failed("cannot write", "the archive");
}

/* All layers together, without what the machine has changed or mounted. A descriptor, or -1. */
static int merged_layers(unsigned count)
{
    if (fchdir(LAYERS_DESCRIPTOR) != 0)
        return -1;
    if (count > 1) {
        char options[PATH_MAX] = "ro,redirect_dir=follow,lowerdir=";
        size_t used = strlen(options);
        for (unsigned i = count; i > 0 && used < sizeof options - 8; i--)
            used += (size_t)snprintf(options + used, sizeof options - used, "%u%s", i - 1,
                                     i > 1 ? ":" : "");
        mkdir("merged", 0755);
        if (mount("merged", "merged", "overlay", MS_RDONLY, options) != 0)
            return -1;
    }
    return open(count > 1 ? "merged" : "0", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static unsigned layer_count(void)
{
    char name[16];
    struct stat found;
    unsigned count = 0;
    for (;; count++) {
        snprintf(name, sizeof name, "%u", count);
        if (fstatat(LAYERS_DESCRIPTOR, name, &found, 0) != 0)
            return count;
    }
}

static int archive_changes(char **excludes, bool dump)
{
    struct walk walk = {
        .excludes = excludes, .layers = layer_count(), .leave_made_out = true, .dump = dump};
    int upper = openat(SCRATCH_DESCRIPTOR, "upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (upper < 0)
        return failed("cannot open", "the changes (does the machine write to its disk itself?)");
    /* Without what is mounted below it. */
    walk.merged = walk_open_tree("/");
    if (walk.merged < 0)
        return failed("cannot open", "/");
    return finish(&walk, walk_upper(&walk, upper));
}

static int archive_layer(const char *text)
{
    char *end;
    unsigned long number = strtoul(text, &end, 10);
    struct walk walk = {.layers = (unsigned)number, .exact = true};
    if (*text == 0 || *end != 0 || number >= layer_count()) {
        errno = ENOENT;
        return failed("cannot archive layer", text);
    }
    int layer = openat(LAYERS_DESCRIPTOR, text, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    walk.merged = merged_layers((unsigned)number + 1);
    if (layer < 0 || walk.merged < 0)
        return failed("cannot open layer", text);
    return finish(&walk, walk_upper(&walk, layer));
}

static bool archive_matches(struct walk *walk, const char *pattern, bool *found)
{
    glob_t matches;
    int code = glob(pattern, GLOB_NOSORT, NULL, &matches);
    if (code == GLOB_NOMATCH)
        return true;
    bool good = code == 0;
    for (size_t i = 0; good && i < matches.gl_pathc; i++) {
        *found = true;
        good = walk_tree(walk, matches.gl_pathv[i]);
    }
    globfree(&matches);
    return good;
}

static int archive_tree(char **argv)
{
    struct walk walk = {0};
    walk.merged = merged_layers(layer_count());
    if (walk.merged < 0 || fchdir(walk.merged) != 0)
        return failed("cannot open", "the layers");
    if (*argv != NULL && strcmp(*argv, "--root") == 0 && argv[1] != NULL) {
        const char *root = argv[1] + strspn(argv[1], "/");
        walk.merged = walk_open_inside(walk.merged, *root != 0 ? root : ".");
        if (walk.merged < 0 || fchdir(walk.merged) != 0)
            return failed("cannot open", argv[1]);
        argv += 2;
    }
    for (; *argv != NULL; argv++) {
        bool found = false;
        if (!archive_matches(&walk, *argv, &found))
            return finish(&walk, false);
        if (!found) {
            errno = ENOENT;
            return failed("cannot find", *argv);
        }
    }
    return finish(&walk, true);
}

/* Paths end with NUL, and have no slash before them; what is not there is left out. */
static int archive_files(void)
{
    struct walk walk = {.merged = merged_layers(layer_count())};
    if (walk.merged < 0)
        return failed("cannot open", "the layers");
    char *wanted = NULL;
    size_t room = 0;
    bool good = true;
    while (good && getdelim(&wanted, &room, 0, stdin) > 0)
        good = walk_file(&walk, wanted);
    free(wanted);
    if (good && ferror(stdin))
        return failed("cannot read", "the paths");
    return finish(&walk, good);
}

int archive_main(char **argv)
{
    tar_begin(STDOUT_FILENO);
    if (argv[1] != NULL && strcmp(argv[1], "changes") == 0)
        return archive_changes(argv + 2, false);
    if (argv[1] != NULL && strcmp(argv[1], "dump") == 0)
        return archive_changes(argv + 2, true);
    if (argv[1] != NULL && strcmp(argv[1], "layer") == 0 && argv[2] != NULL)
        return archive_layer(argv[2]);
    if (argv[1] != NULL && strcmp(argv[1], "tree") == 0)
        return archive_tree(argv + 2);
    if (argv[1] != NULL && strcmp(argv[1], "files") == 0)
        return archive_files();
    fprintf(stderr, "archive: changes [EXCLUDE...], dump [EXCLUDE...], layer NUMBER, files, or"
                    " tree [--root PATH] PATTERN...\n");
    return 1;
}

/* init of the stock kernel: what AppPot's agent does before a command, one script, power-off.
 *
 * Environment, from the kernel's command line: layers=N (erofs on ubda and following, the lowest
 * first), share=/FOLDER (of the host, mounted at /job), script=NAME (in the share). Without a
 * script it says that it lives and ends. Standard input and output of the script are tty1,
 * standard error is tty2, status and complaints go to the console. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static void power_off(void)
{
    sync();
    reboot(RB_POWER_OFF);
    _exit(0);
}

static void need(int done, const char *what)
{
    if (done >= 0)
        return;
    printf("\nbench: cannot %s: %s\n", what, strerror(errno));
    power_off();
}

static int must_open(const char *path)
{
    struct termios raw;
    int fd = open(path, O_RDWR | O_NOCTTY);
    need(fd, path);
    if (tcgetattr(fd, &raw) == 0) {
        cfmakeraw(&raw);
        tcsetattr(fd, TCSANOW, &raw);
    }
    return fd;
}

/* The same mounts with the same options as AppPot's. */
static void make_root(int layers)
{
    char device[24], folder[24], options[512] = "volatile,redirect_dir=on,metacopy=off,index=off,"
                                                "xino=auto,upperdir=/scratch/upper,"
                                                "workdir=/scratch/work,lowerdir=";
    for (int i = 0; i < layers; i++) {
        snprintf(device, sizeof device, "/dev/ubd%c", 'a' + i);
        snprintf(folder, sizeof folder, "/layer/%d", i);
        mkdir(folder, 0755);
        need(mount(device, folder, "erofs", MS_RDONLY, NULL), "mount a layer");
    }
    for (int i = layers; i > 0; i--) {
        size_t used = strlen(options);
        snprintf(options + used, sizeof options - used, "%d%s", i - 1, i > 1 ? ":" : "");
    }
    need(mount("scratch", "/scratch", "tmpfs", MS_NOATIME, "mode=0755,nr_inodes=0"), "mount tmpfs");
    mkdir("/scratch/upper", 0755);
    mkdir("/scratch/work", 0755);
    need(chdir("/layer"), "change the folder");
    need(mount("root", "/new", "overlay", MS_NOATIME, options), "mount the overlay");
    need(mount("/dev", "/new/dev", NULL, MS_MOVE, NULL), "move /dev");
    need(mount("/proc", "/new/proc", NULL, MS_MOVE, NULL), "move /proc");
    need(chdir("/new"), "change the folder");
    need(mount(".", "/", NULL, MS_MOVE, NULL), "move the root");
    need(chroot("."), "change the root");
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mkdir("/dev/shm", 01777);
    mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777");
    symlink("/proc/self/fd", "/dev/fd");
    chmod("/tmp", 01777);
    mkdir("/job", 0755);
    need(mount("share", "/job", "hostfs", 0, getenv("share")), "mount the shared folder");
    need(chdir("/job"), "change to the shared folder");
}

static int run(const char *script)
{
    int status = -1, in = must_open("/dev/tty1"), errors = must_open("/dev/tty2");
    printf("\nbench: ready\n");
    pid_t child = fork();
    need(child, "fork");
    if (child == 0) {
        setsid();
        dup2(in, 0);
        dup2(in, 1);
        dup2(errors, 2);
        execl("/bin/sh", "sh", script, (char *)NULL);
        _exit(127);
    }
    for (pid_t ended = 0; ended != child;) {
        ended = wait(&status);
        need(ended, "wait");
    }
    tcdrain(in);
    tcdrain(errors);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(void)
{
    write(1, "bench: alive\n", 13);
    setvbuf(stdout, NULL, _IONBF, 0);
    const char *script = getenv("script"), *layers = getenv("layers");
    if (script == NULL || *script == '\0' || layers == NULL)
        power_off();
    need(mount("proc", "/proc", "proc", 0, NULL), "mount /proc");
    need(mount("devtmpfs", "/dev", "devtmpfs", 0, NULL), "mount /dev");
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);
    make_root(atoi(layers));
    printf("\nbench: status %d\n", run(script));
    power_off();
}

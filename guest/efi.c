/* What UEFI firmware starts on an exported disk: hands the kernel, its first file system and its
 * command line, all parts of the same file, to the kernel's own EFI entry.
 *
 * The parts are sections of the file: `.linux`, `.initrd`, `.cmdline` (UTF-16, with its end). The
 * code has no data that is written to and no absolute addresses, so that its file needs neither
 * relocations nor a writable section. */
#include <stddef.h>
#include <stdint.h>

#define EFI __attribute__((ms_abi))
#define ERROR(number) ((status)1 << 63 | (number))

typedef uint64_t status;
typedef void *handle;

enum { INVALID_PARAMETER = 2, UNSUPPORTED = 3, BUFFER_TOO_SMALL = 5, LOADER_DATA = 2 };

struct guid {
    uint32_t a;
    uint16_t b, c;
    uint8_t d[8];
};

struct text_output {
    void *reset;
    status(EFI *print)(struct text_output *self, const uint16_t *text);
};

struct table_header {
    uint64_t signature;
    uint32_t revision, size, check, reserved;
};

struct boot_services {
    struct table_header header;
    void *before_handle_protocol[16];
    status(EFI *handle_protocol)(handle from, const struct guid *protocol, void **interface);
    void *before_load_image[5];
    status(EFI *load_image)(uint8_t policy, handle parent, const void *path, const void *source,
                            size_t size, handle *image);
    status(EFI *start_image)(handle image, size_t *exit_size, uint16_t **exit_data);
    void *before_install[14];
    status(EFI *install_protocols)(handle *on, ...);
    status(EFI *uninstall_protocols)(handle from, ...);
};

struct system_table {
    struct table_header header;
    uint16_t *vendor;
    uint32_t revision;
    handle input_handle;
    void *input;
    handle output_handle;
    struct text_output *output;
    handle error_handle;
    void *error;
    void *runtime;
    struct boot_services *boot;
};

struct loaded_image {
    uint32_t revision;
    handle parent;
    struct system_table *system;
    handle device;
    const void *path;
    void *reserved;
    uint32_t options_size;
    const void *options;
    const uint8_t *base;
    uint64_t size;
};

struct part {
    const uint8_t *bytes;
    size_t size;
};

struct file_loader {
    status(EFI *load)(struct file_loader *self, const void *path, uint8_t boot_policy,
                      size_t *size, void *buffer);
    struct part content;
};

/* The device path by which Linux asks for its first file system. */
struct initrd_path {
    uint8_t type, subtype;
    uint16_t length;
    struct guid vendor;
    uint8_t end_type, end_subtype;
    uint16_t end_length;
} __attribute__((packed));

static uint32_t number(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* A section of the program's own file, as the firmware has loaded it. */
static struct part section(const uint8_t *base, const char *name)
{
    const uint8_t *header = base + number(base + 0x3c);
    unsigned count = header[6] | (unsigned)header[7] << 8;
    const uint8_t *entry = header + 24 + (header[20] | (unsigned)header[21] << 8);
    for (; count > 0; count--, entry += 40) {
        unsigned same = 0;
        while (same < 8 && entry[same] == (uint8_t)name[same] && name[same] != 0)
            same++;
        if (same == 8 || (entry[same] == 0 && name[same] == 0))
            return (struct part){base + number(entry + 12), number(entry + 8)};
    }
    return (struct part){NULL, 0};
}

static status EFI load_initrd(struct file_loader *self, const void *path, uint8_t boot_policy,
                              size_t *size, void *buffer)
{
    (void)path;
    if (size == NULL)
        return ERROR(INVALID_PARAMETER);
    if (boot_policy)
        return ERROR(UNSUPPORTED);
    size_t room = *size;
    *size = self->content.size;
    if (buffer == NULL || room < self->content.size)
        return ERROR(BUFFER_TOO_SMALL);
    uint8_t *to = buffer;
    for (size_t i = 0; i < self->content.size; i++)
        to[i] = self->content.bytes[i];
    return 0;
}

static status start_linux(handle self, struct system_table *system, const struct loaded_image *own)
{
    const struct guid loaded_image = {
        0x5b1b31a1, 0x9562, 0x11d2, {0x8e, 0x3f, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b}};
    struct boot_services *boot = system->boot;
    struct part linux_part = section(own->base, ".linux");
    struct part options = section(own->base, ".cmdline");
    struct loaded_image *image;
    handle started = NULL;
    status error = boot->load_image(0, self, own->path, linux_part.bytes, linux_part.size, &started);
    if (error == 0)
        error = boot->handle_protocol(started, &loaded_image, (void **)&image);
    if (error != 0)
        return error;
    image->options = options.bytes;
    image->options_size = (uint32_t)options.size;
    return boot->start_image(started, NULL, NULL);
}

/* The first function of the program: see efi.ld. */
__attribute__((section(".entry"))) status EFI efi_main(handle self, struct system_table *system);
status EFI efi_main(handle self, struct system_table *system)
{
    const struct guid loaded_image = {
        0x5b1b31a1, 0x9562, 0x11d2, {0x8e, 0x3f, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b}};
    const struct guid device_path = {
        0x09576e91, 0x6d3f, 0x11d2, {0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b}};
    const struct guid load_file2 = {
        0x4006c0c1, 0xfcb3, 0x403e, {0x99, 0x6d, 0x4a, 0x6c, 0x87, 0x24, 0xe0, 0x6d}};
    const struct initrd_path path = {
        4, 3, sizeof path - 4,
        {0x5568e427, 0x68fc, 0x4f3d, {0xac, 0x74, 0xca, 0x55, 0x52, 0x31, 0xcc, 0x68}},
        0x7f, 0xff, 4};
    struct boot_services *boot = system->boot;
    struct loaded_image *own;
    handle initrd = NULL;
    status error = boot->handle_protocol(self, &loaded_image, (void **)&own);
    if (error == 0) {
        struct file_loader loader = {load_initrd, section(own->base, ".initrd")};
        error = boot->install_protocols(&initrd, &device_path, &path, &load_file2, &loader, NULL);
        if (error == 0) {
            error = start_linux(self, system, own);
            boot->uninstall_protocols(initrd, &device_path, &path, &load_file2, &loader, NULL);
        }
    }
    if (error != 0) {
        static const uint16_t text[] = u"AppPot: the kernel cannot be started\r\n";
        system->output->print(system->output, text);
    }
    return error;
}

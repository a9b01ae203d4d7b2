/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest that reads the three ACPI files of fw_cfg by port I/O (QEMU docs/specs/fw_cfg.rst), once Linux runs, writes each
 * to the status port behind its length in four bytes, big-endian, and powers off. Its command line must not lock it down.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <unistd.h>

enum { SELECTOR = 0x510, DATA = 0x511, DIRECTORY = 0x19 };

struct file {
	uint32_t size;
	uint16_t select, reserved;
	char name[56];
};

static const char *const names[] = { "etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables" };
static uint8_t blob[1 << 20];

static int find(const char *name, struct file *file)
{
	uint32_t count;

	outw(DIRECTORY, SELECTOR);
	insb(DATA, &count, sizeof count);
	for (count = ntohl(count); count; count--) {
		insb(DATA, file, sizeof *file);
		if (!strncmp(file->name, name, sizeof file->name))
			return 1;
	}
	return 0;
}

int main(void)
{
	struct file file;
	int port;

	if (iopl(3) || mount("dev", "/dev", "devtmpfs", 0, 0))
		return 1;
	port = open("/dev/vport0p1", O_WRONLY);
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		uint32_t size;

		if (!find(names[i], &file) || (size = ntohl(file.size)) > sizeof blob)
			return 2;
		outw(ntohs(file.select), SELECTOR);
		insb(DATA, blob, size);
		if (write(port, &file.size, sizeof file.size) != sizeof file.size)
			return 3;
		for (uint32_t done = 0; done < size;) {
			ssize_t length = write(port, blob + done, size - done);

			if (length <= 0)
				return 3;
			done += length;
		}
	}
	reboot(RB_POWER_OFF);
	return 4;
}

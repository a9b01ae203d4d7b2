/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest that says on its second serial port what the firmware measured into the TPM, then powers off. One line for each
 * file: its name, its permissions in octal, its content in hexadecimal.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

static void tell(FILE *out, const char *path)
{
	unsigned char bytes[4096];
	struct stat about;
	ssize_t length;
	int file = open(path, O_RDONLY);

	if (file < 0 || fstat(file, &about))
		return;
	fprintf(out, "%s %o ", path, about.st_mode & 07777);
	while ((length = read(file, bytes, sizeof bytes)) > 0)
		for (ssize_t at = 0; at < length; at++)
			fprintf(out, "%02x", bytes[at]);
	fputc('\n', out);
	close(file);
}

int main(void)
{
	char pcr[64];
	FILE *out;

	if (mount("dev", "/dev", "devtmpfs", 0, 0) || mount("proc", "/proc", "proc", 0, 0) ||
	    mount("sys", "/sys", "sysfs", 0, 0) || mount("security", "/sys/kernel/security", "securityfs", 0, 0))
		return 1;
	out = fopen("/dev/ttyS1", "w");
	if (!out)
		return 1;
	/* Behind what the firmware has written there. */
	fputc('\n', out);
	tell(out, "/proc/cmdline");
	tell(out, "/.extra");
	tell(out, "/.extra/os-release");
	tell(out, "/sys/kernel/security/tpm0/binary_bios_measurements");
	for (int index = 0; index < 16; index++) {
		snprintf(pcr, sizeof pcr, "/sys/class/tpm/tpm0/pcr-sha384/%d", index);
		tell(out, pcr);
	}
	/* Waits until all has left. */
	if (fclose(out))
		return 1;
	reboot(RB_POWER_OFF);
	return 1;
}

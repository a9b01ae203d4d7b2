/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest that does not do what ours does: writes the bytes of /say to the status port, then ends as the first letter of
 * /end says: p, its kernel panics, because PID 1 returns; o, it powers off; h, it hangs.
 */
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <unistd.h>

static char say[4096];

int main(void)
{
	int in = open("/say", O_RDONLY), end = open("/end", O_RDONLY), port;
	ssize_t length = read(in, say, sizeof say);
	char how = 0;

	if (length < 0 || read(end, &how, 1) != 1 || mount("dev", "/dev", "devtmpfs", 0, 0))
		return 1;
	port = open("/dev/vport0p1", O_WRONLY);
	if (port < 0 || write(port, say, length) != length)
		return 1;
	switch (how) {
	case 'o':
		reboot(RB_POWER_OFF);
		break;
	case 'h':
		for (;;)
			pause();
	}
	return 0;
}

/* The framework itself. */
#include "guest.h"

int main(void)
{
	check("arithmetic", 2 + 2, 4);
	board(CMD_TIME, 0, 0);
	return 0;
}

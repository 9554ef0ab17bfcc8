/* The error in a forked child, and the parent, which goes on. The child may free inherited blocks
 * without an error. */
#include <giant_kitten.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    void *block = gk_malloc(1000, 0, NULL);
    if (!block)
        return puts(gk_last_error()), 1;
    pid_t child = fork();
    if (child == 0) {
        gk_free(block, 1000, 0, NULL);
        int refused = gk_malloc(1000, 0, NULL) == NULL;
        printf("child: %s\n", refused ? gk_last_error() : "got memory");
        fflush(stdout);
        _exit(0);
    }
    int status = 1;
    if (waitpid(child, &status, 0) != child || status != 0)
        return 1;
    gk_free(block, 1000, 0, NULL);
    puts(gk_malloc(1000, 0, NULL) == block ? "parent: goes on" : gk_last_error());
    return 0;
}

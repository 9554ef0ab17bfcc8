/* What a forked child is told, and that the parent goes on. The child's frees of what it inherited say nothing. */
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

;; A service for a Guix System on the Hurd, such as a childhurd's, which has to load this file and has
;;
;;   (services (cons drover-agent %base-services+qemu-networking/hurd))
;;
;; in its operating-system. The agent's options are in /etc/drover-agent.conf.
(use-modules (gnu packages base)
             (gnu services)
             (gnu services shepherd)
             (guix gexp))

(define drover-agent
  (simple-service
   'drover-agent shepherd-root-service-type
   (list (shepherd-service
          (documentation "Run the agent of the drover build farm.")
          (provision '(drover-agent))
          (requirement '(user-processes guix-daemon networking))
          ;; There is no /lib/ld.so.1, which the program names: the loader is called by its own name.
          (start #~(make-forkexec-constructor
                    (list #$(file-append glibc/hurd "/lib/ld.so.1")
                          "--library-path" #$(file-append glibc/hurd "/lib")
                          "/usr/local/bin/drover-agent")
                    #:log-file "/var/log/drover-agent.log"))
          ;; Told to stop, it takes no more builds and waits for those that run: its option drain-time, ten minutes.
          (stop #~(make-kill-destructor SIGTERM #:grace-period 660))))))
